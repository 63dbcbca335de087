// SPDX-License-Identifier: Apache-2.0
//
// Parts that changes of a group which the host's LVM runs are made of. For the kernel engine's own files.
#pragma once

#include <string>
#include <vector>

#include "host/lvm_command.h"
#include "volumes/kernel_view.h"

namespace lamella {

// "FREE", ... behind LVM's "%". Of bytes: none.
std::string_view percent_of(SizeRequest::Base base);
// The size of something new. A part of the group is LVM's to reckon.
void add_new_size(host::LvmWords& words, const SizeRequest& size);
void add_tags(host::LvmWords& words, const std::vector<std::string>& tags);
std::uint64_t rounded_up(std::uint64_t bytes, std::uint64_t unit);
// What a request comes to, in bytes; of a part of the group LVM may make a little less. Errors: usage.
Result<std::uint64_t> resolve(const host::LvmGroup& group, const SizeRequest& request, std::uint64_t current);

// What a trial answers with.
VolumeInfo expected(const std::string& name, VolumeKind kind, std::string segment_type, std::uint64_t size);

// Errors: refused, with who uses it, as far as that can be told.
Result<void> refuse_in_use(const KernelView& view, const host::LvmVolume& volume);
// Errors: usage, for a name that LVM doesn't take; exists.
Result<void> check_new_name(const KernelView& view, const std::string& name);
// Errors: usage.
Result<void> check_pool_settings(std::uint64_t chunk_size, const std::string& discards);

}  // namespace lamella
