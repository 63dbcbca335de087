// SPDX-License-Identifier: Apache-2.0
#include "device/error_device.h"

#include <cerrno>

namespace lamella {

void ErrorDevice::submit(IoQueue& queue, IoRequest& request) { queue.complete_later(request, EIO); }

void ErrorDevice::status(IoQueue& queue, StatusRequest& request) { queue.complete_later(request, EIO); }

}  // namespace lamella
