// SPDX-License-Identifier: Apache-2.0
#include "volumes/pool_message.h"

#include <gtest/gtest.h>

namespace lamella {
namespace {

TEST(PoolMessage, KeepsTheTextsBooks) {
    const auto kind = [](const char* message, const std::vector<std::uint32_t>& known, bool certain = true) {
        const auto answer = refuse_behind_the_text("pool", message, known, certain);
        return answer ? ErrorKind::failed : answer.error().kind();  // failed: let through
    };
    for (const char* message :
         {"create_thin 1", "create_snap 2 1", "delete 3", "delete\t3", "  delete   3", "delete 03", "delete 0x3", "delete", "delete 3 9",
          "delete 9x", "set_transaction_id 1 2", "Delete 3", "DELETE 3", "Set_Transaction_Id 1 2"})
        EXPECT_EQ(kind(message, {3, 4}), ErrorKind::refused) << message;
    for (const char* message : {"delete 9", " delete  9", "reserve_metadata_snap", "nonsense", "", "deleted 3"})
        EXPECT_EQ(kind(message, {3, 4}), ErrorKind::failed) << message;
    EXPECT_EQ(kind("delete 3", {}), ErrorKind::failed) << "the group has no volumes there";
    EXPECT_EQ(kind("delete 9", {3, 4}, false), ErrorKind::refused) << "it may be one of the group's";
    EXPECT_EQ(kind("delete\xa0"
                   "3",
                   {3}),
              ErrorKind::usage);
    EXPECT_EQ(kind("dele\\te 3", {3}), ErrorKind::usage);
}

}  // namespace
}  // namespace lamella
