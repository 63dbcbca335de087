// SPDX-License-Identifier: Apache-2.0
//
// The forms in which a dump is written. XML as thin_dump of thin-provisioning-tools 0.9.0 writes it, byte for byte; definitions and
// references, which that version doesn't have, as 1.x has them. (1.x leaves out flags="0" and the newline at the end.) The form for
// people is that of 0.9.0 too. JSON has one object a line:
//
//   {"superblock":{"uuid":"","time":1,"transaction":3,"flags":0,"version":2,"data_block_size":128,"nr_data_blocks":100}}
//   {"definition":1}                               then its mappings
//   {"device":{"dev_id":1,"mapped_blocks":4,"transaction":0,"creation_time":0,"snap_time":1}}
//   {"map":[0,10,4,1]}                             virtual block, data block, length, time
//   {"reference":1}
//   {"end":true}                                   the dump is whole
#pragma once

#include <cstdint>
#include <memory>

#include "tools/text_sink.h"
#include "tools/visitor.h"

namespace lamella::tools {

enum class DumpFormat : std::uint8_t { xml, json, human };

// Writes what it is told; checks nothing. Text is gathered in pieces of up to 1 MiB; superblock_begin() and superblock_end() let all of it go,
// so that a reader of the first line gets it at once. The sink outlives the printer. Runs that continue one another are printed as
// one, also across calls.
std::unique_ptr<PoolVisitor> make_printer(DumpFormat format, TextSink& sink);

}  // namespace lamella::tools
