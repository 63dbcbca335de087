// SPDX-License-Identifier: Apache-2.0
//
// What the targets snapshot, snapshot-origin and snapshot-merge of one origin share.
#pragma once

#include <memory>
#include <string>

#include "cow/origin.h"
#include "mapper/target.h"

namespace lamella::mapper {

// Found in SharedObjects by the origin's device.
struct OriginInUse {
    LowerDevice lower;
    std::shared_ptr<cow::Origin> origin;

    static Result<std::shared_ptr<OriginInUse>> of(TargetContext& context, std::string_view word);
};

// A store is that of one origin's snapshot. Found in SharedObjects by the store's device.
struct StoreInUse {
    std::shared_ptr<OriginInUse> origin;
};

// The words of a snapshot or snapshot-merge line: ORIGIN STORE P|PO|N CHUNK [COUNT FEATURE...]. A snapshot begins, and a store is
// written to, when the table is resumed.
struct SnapshotWords {
    std::shared_ptr<OriginInUse> origin;
    LowerDevice store;
    std::shared_ptr<StoreInUse> store_in_use;
    cow::SnapshotOptions options;

    static Result<SnapshotWords> take(TargetContext& context);
    // Called in preresume(). The snapshot's events are the owner's, too, until `target` drops them: the snapshot may live longer.
    Result<std::shared_ptr<cow::Snapshot>> open(MappedDevice& owner, const Target& target) const;
    // `snapshot`: once there is one, for the chunk size that its store says.
    std::string print(const cow::Snapshot* snapshot) const;
};

}  // namespace lamella::mapper
