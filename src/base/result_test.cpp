// SPDX-License-Identifier: Apache-2.0
#include "base/result.h"

#include <memory>

#include <gtest/gtest.h>

namespace lamella {
namespace {

Result<int> half(int number) {
    if (number % 2 != 0)
        return fail(ErrorKind::usage, "{} is odd", number);
    return number / 2;
}

Result<int> quarter(int number) { return TRY(half(TRY(half(number)))); }

Result<std::unique_ptr<int>> boxed(int number) { return std::make_unique<int>(TRY(half(number))); }

Result<void> check(int number) {
    TRY_WITHIN("checking", half(number));
    return {};
}

TEST(Result, TryHandsOnValuesAndErrors) {
    EXPECT_EQ(quarter(8), 2);
    EXPECT_EQ(quarter(6).error().message(), "3 is odd");
    EXPECT_EQ(**boxed(6), 3);
    EXPECT_TRUE(check(2));
    EXPECT_EQ(check(1).error().message(), "checking: 1 is odd");
    EXPECT_EQ(check(1).error().kind(), ErrorKind::usage);
}

TEST(Error, KindsAndErrnosGoBothWays) {
    EXPECT_EQ(Error::from_errno("x", ENOSPC).kind(), ErrorKind::no_space);
    EXPECT_EQ(Error::from_errno("x", EDQUOT).kind(), ErrorKind::no_space);
    EXPECT_EQ(Error::from_errno("x", ENOENT).kind(), ErrorKind::not_found);
    EXPECT_EQ(Error::from_errno("x", EBUSY).kind(), ErrorKind::refused);
    EXPECT_EQ(Error::from_errno("x", EEXIST).kind(), ErrorKind::exists);
    EXPECT_EQ(Error::from_errno("x", EROFS).kind(), ErrorKind::failed);
    EXPECT_EQ(Error::from_errno("x", EROFS).error_number(), EROFS);
    EXPECT_EQ(Error::from_errno("opening y", ENOENT).message(), "opening y: No such file or directory");
    EXPECT_EQ(Error(ErrorKind::no_space, "full").error_number(), ENOSPC);
    EXPECT_EQ(Error(ErrorKind::damaged, "bad").error_number(), EIO);
    EXPECT_EQ(Error(ErrorKind::failed, "bad").within("here").error_number(), EIO);
    EXPECT_EQ(to_string(ErrorKind::no_space), "no_space");
}

}  // namespace
}  // namespace lamella
