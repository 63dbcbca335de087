// SPDX-License-Identifier: Apache-2.0
#include "host/lvm_command.h"

#include <gmock/gmock.h>

#include "base/test_support.h"
#include "host/fake_host.h"

namespace lamella::host {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string words(const LvmWords& words) { return fmt::format("{}", fmt::join(test::value_of(words.done()), " ")); }

TEST(LvmWords, PutsNamesBehindTheEndOfOptions) {
    EXPECT_EQ(words(LvmWords("lvremove").option("--yes").volume("vg0", "web").volume("vg0", "db")), "lvremove --yes -- vg0/web vg0/db");
}

// A part of the origin is LVM's --extents: --size doesn't know it. Sizes are whole sectors, whatever their size: never "+0G".
TEST(LvmWords, GivesSizesAsLvmTakesThem) {
    EXPECT_EQ(words(LvmWords("lvcreate").percent(2000, "ORIGIN")), "lvcreate --extents 20%ORIGIN");
    EXPECT_EQ(words(LvmWords("lvextend").percent(2000, "LV", "+")), "lvextend --extents +20%LV");
    EXPECT_EQ(words(LvmWords("lvextend").size("--size", (400u << 20) + 1, "+")), "lvextend --size +819201s");
    EXPECT_FALSE(LvmWords("lvcreate").percent(2050, "VG").done());
}

TEST(LvmWords, RefusesNamesThatAreNotNames) {
    const auto refused = [](const LvmWords& words) {
        const auto done = words.done();
        return !done && done.error().kind() == ErrorKind::usage;
    };
    for (const char* name : {"", ".", "..", "-web", "web db", "web;id", "../web", "w\neb", "--yes"}) {
        EXPECT_TRUE(refused(LvmWords("lvremove").volume("vg0", name))) << name;
        EXPECT_TRUE(refused(LvmWords("lvs").group(name))) << name;
        EXPECT_TRUE(refused(LvmWords("lvcreate").new_name("--name", "vg0", name))) << name;
    }
    for (const char* name : {"snapshot1", "pvmove0", "x_tmeta", "a_tdata_b", "lvol0_pmspare"})
        EXPECT_TRUE(refused(LvmWords("lvcreate").new_name("--name", "vg0", name))) << name;
    // What is there already may have such a name.
    EXPECT_FALSE(refused(LvmWords("lvchange").volume("vg0", "pool_tmeta")));
    EXPECT_TRUE(refused(LvmWords("lvcreate").new_name("--name", "vg0", std::string(128, 'a'))));
    EXPECT_TRUE(refused(LvmWords("lvcreate").new_name("--name", "vg0", std::string(64, '-').insert(0, "a"))));
    for (const char* tag : {"", "-x", "a b", "a,b", "a\"b", "a||b"})
        EXPECT_TRUE(refused(LvmWords("lvchange").tag("--addtag", tag))) << tag;
    EXPECT_FALSE(refused(LvmWords("lvchange").tag("--addtag", "a/b=c:d&e#f!g+h-i_j.k")));
}

TEST(Lvm, MakesTrialsOfChanges) {
    FakeRunner runner;
    Lvm lvm(runner, "/usr/sbin/lvm");
    test::value_of(lvm.change(LvmWords("lvremove").option("--yes").volume("vg0", "web"), true));
    EXPECT_THAT(runner.commands.at(0).words, ElementsAre("/usr/sbin/lvm", "lvremove", "--test", "--yes", "--", "vg0/web"));
    EXPECT_TRUE(runner.commands.at(0).changes) << "it holds locks like any other";
}

TEST(Lvm, RunsNothingWithWordsThatAreNotValid) {
    FakeRunner runner;
    EXPECT_FALSE(Lvm(runner, "/usr/sbin/lvm").change(LvmWords("lvremove").volume("vg0", "-x")));
    EXPECT_FALSE(Lvm(runner, "/usr/sbin/lvm").report("a||b"));
    EXPECT_TRUE(runner.commands.empty());
}

// As LVM 2.03.16 says it.
TEST(Lvm, KnowsWhatWentWrong) {
    struct Case {
        int exit_code;
        const char* errors;
        ErrorKind kind;
    };
    for (const Case& one : {
             Case{5, "  Volume group \"none\" not found\n  Cannot process volume group none\n", ErrorKind::not_found},
             Case{5, "  Failed to find logical volume \"vg0/none\"\n", ErrorKind::not_found},
             Case{5, "  Logical Volume \"boot\" already exists in volume group \"vg0\"\n", ErrorKind::exists},
             Case{5, "  Volume group \"vg0\" has insufficient free space (24 extents): 225 required.\n", ErrorKind::no_space},
             Case{5, "  Insufficient free space: 225 extents needed, but only 24 available\n", ErrorKind::no_space},
             Case{5, "  Logical volume vg0/web in use.\n", ErrorKind::refused},
             Case{5, "  Volume group vg0 is exported\n", ErrorKind::refused},
             Case{5, "  Cannot access VG vg0 with system ID other with unknown local system ID.\n", ErrorKind::refused},
             Case{3,
                  "  Names starting \"snapshot\" are reserved. Please choose a different LV name.\n  Run `lvcreate --help' for more "
                  "information.\n",
                  ErrorKind::usage},
             Case{5, "  Something else\n", ErrorKind::failed},
             Case{5, "", ErrorKind::failed},
         }) {
        const Error error = lvm_error("lvcreate", {one.exit_code, 0, "", one.errors});
        EXPECT_EQ(error.kind(), one.kind) << one.errors;
        EXPECT_FALSE(error.message().empty());
    }
}

TEST(Lvm, MakesErrorsShortAndSafeToPrint) {
    const Error error = lvm_error(
        "lvextend", {5, 0, "", "  WARNING: noise\n  Bad \x1b[31m thing\n  Bad \x1b[31m thing\n  Run `lvextend --help' for more.\n"});
    EXPECT_EQ(error.message(), "LVM: Bad ?[31m thing");
    EXPECT_LT(lvm_error("lvs", {5, 0, "", std::string(1'000'000, 'x')}).message().size(), 700u);
    EXPECT_EQ(lvm_error("lvs", {5, 0, "", "  WARNING: only this\n"}).message(), "LVM: WARNING: only this");
    EXPECT_THAT(lvm_error("lvs", {-1, 9, "", ""}).message(), HasSubstr("signal 9"));
}

class Report : public testing::Test {
  protected:
    Error error_of(CommandResult result) {
        runner.answer = [&](const Command&) { return result; };
        const auto group = Lvm(runner, "/usr/sbin/lvm").report("vg0");
        EXPECT_FALSE(group);
        return group ? Error(ErrorKind::failed, "none") : group.error();
    }
    FakeRunner runner;
};

TEST_F(Report, AsksOnceAndForOneGroup) {
    const std::string text =
        R"({"report":[{"vg":[{"vg_name":"vg0","vg_uuid":"u","vg_seqno":"1","vg_extent_size":"4194304","vg_extent_count":"9","vg_free_count":"9"}]}]})";
    runner.answer = [&](const Command&) { return CommandResult{0, 0, text, "  WARNING: a lock is waited for\n"}; };
    EXPECT_EQ(test::value_of(Lvm(runner, "/usr/sbin/lvm").report("vg0")).name, "vg0");
    ASSERT_EQ(runner.commands.size(), 1u);
    EXPECT_FALSE(runner.commands[0].changes);
    EXPECT_THAT(runner.line(0), testing::StartsWith("fullreport --all"));
    EXPECT_THAT(runner.line(0), testing::EndsWith("-- vg0"));
    EXPECT_THAT(runner.line(0), HasSubstr("--units b --nosuffix"));
    EXPECT_THAT(runner.line(0), Not(HasSubstr("-S")));
}

TEST_F(Report, TellsWhyThereIsNone) {
    EXPECT_EQ(error_of({5, 0, "{\"report\": []}", "  Volume group \"vg0\" not found\n"}).kind(), ErrorKind::not_found);
    EXPECT_EQ(error_of({0, 0, "{\"report\": []}", ""}).kind(), ErrorKind::not_found);
    // Versions from 2.03.26 on tell errors in the report alone.
    EXPECT_EQ(
        error_of({5, 0, R"({"report": [], "log": [{"log_type":"error","log_message":"Volume group \"vg0\" not found"}]})", ""}).kind(),
        ErrorKind::not_found);
    EXPECT_EQ(error_of({0, 0, "Speicherzugriffsfehler", ""}).kind(), ErrorKind::damaged);
    EXPECT_EQ(error_of({-1, 11, "{\"report\": []}", ""}).kind(), ErrorKind::failed);
    EXPECT_EQ(
        error_of(
            {0, 0,
             R"({"report":[{"vg":[{"vg_name":"vg1","vg_uuid":"u","vg_seqno":"1","vg_extent_size":"4194304","vg_extent_count":"9","vg_free_count":"9"}]}]})",
             ""})
            .kind(),
        ErrorKind::not_found);
}

TEST_F(Report, RefusesTwoGroupsOfOneName) {
    const std::string one =
        R"({"vg":[{"vg_name":"vg0","vg_uuid":"u","vg_seqno":"1","vg_extent_size":"4194304","vg_extent_count":"9","vg_free_count":"9"}]})";
    EXPECT_EQ(error_of({0, 0, "{\"report\":[" + one + "," + one + "]}", ""}).kind(), ErrorKind::refused);
}

TEST(Lvm, FindsItsLocks) {
    FakeRunner runner;
    Lvm lvm(runner, "/usr/sbin/lvm");
    std::string printed;
    runner.answer = [&](const Command&) { return CommandResult{0, 0, printed, ""}; };
    printed = "locking_dir=\"/run/lock/lvm\"\n";
    EXPECT_EQ(test::value_of(lvm.locking_directory()), "/run/lock/lvm");
    EXPECT_EQ(runner.line(0), "lvmconfig --typeconfig full global/locking_dir");
    for (const char* text : {"", "\n", "\"", "\"/", "\"run\"\n", "/run\n", "\"/run\\\"x\"\n", "\"/run\" \"/x\"\n"}) {
        printed = text;
        EXPECT_FALSE(lvm.locking_directory()) << text;
    }
}

TEST(Lvm, AsksForTheRuleOfAPoolsProfile) {
    FakeRunner runner;
    runner.answer = [](const Command&) {
        return CommandResult{0, 0, "thin_pool_autoextend_threshold=80\nthin_pool_autoextend_percent=25\n", ""};
    };
    Lvm lvm(runner, "/usr/sbin/lvm");
    const auto rule = lvm.extension_rule("grow");
    ASSERT_TRUE(rule) << rule.error().message();
    EXPECT_EQ(rule->threshold, 80u);
    EXPECT_EQ(rule->percent, 25u);
    EXPECT_EQ(runner.line(0),
              "lvmconfig --type full --metadataprofile grow activation/thin_pool_autoextend_threshold "
              "activation/thin_pool_autoextend_percent");
    EXPECT_TRUE(lvm.extension_rule(""));
    EXPECT_EQ(runner.line(1), "lvmconfig --type full activation/thin_pool_autoextend_threshold activation/thin_pool_autoextend_percent");
    for (const char* name : {"--config", "../grow", "a b", "a/b"})
        EXPECT_FALSE(lvm.extension_rule(name)) << name;
    EXPECT_EQ(runner.commands.size(), 2u);
    for (const char* text :
         {"", "thin_pool_autoextend_threshold=80\n", "thin_pool_autoextend_threshold=x\nthin_pool_autoextend_percent=1\n",
          "thin_pool_autoextend_threshold=80 \nthin_pool_autoextend_percent=1x\n"})
        EXPECT_FALSE(parse_extension_rule(text)) << text;
}

}  // namespace
}  // namespace lamella::host
