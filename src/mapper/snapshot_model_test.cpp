// SPDX-License-Identifier: Apache-2.0
//
// An origin and its snapshots as devices of a mapper, on linear, striped and thin devices, against a plain model of what each shows.
// Several requests are in flight, on one queue; the verbs are carried out on a thread of their own: snapshots, merges, removals, suspends,
// loads and resumes of the devices themselves and of those below, stores that fill up. Now and then every device is removed, or all of it
// killed, and made again over the same files. cow's model test takes one request at a time, and no tables.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <list>
#include <map>
#include <optional>
#include <random>
#include <thread>
#include <tuple>

#include "base/strong.h"
#include "mapper/test_support.h"

namespace lamella::mapper {
namespace {

// Sanitizers slow this down tenfold.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr unsigned seeds = 1;
#else
constexpr unsigned seeds = 2;
#endif
constexpr std::uint64_t sectors = 3072;
constexpr std::uint64_t store_place = 4096;  // sectors of b.img for each store
constexpr unsigned most_snapshots = 3;
constexpr unsigned most_in_flight = 8;

class SnapshotModel : public MapperTest, public testing::WithParamInterface<std::tuple<std::string, unsigned>> {
  protected:
    static constexpr std::uint32_t or_zeros = 1u << 31;
    using Shown = std::vector<std::uint32_t>;  // by sector: the number of the write that made it; with `or_zeros`, it was discarded since

    struct Slot : test::Request {
        Slot(IoOperation what, std::uint64_t first_sector, std::uint64_t count, std::vector<std::byte> its_memory, std::uint32_t its_number)
            : Request(what, first_sector * sector_bytes, count * sector_bytes, its_memory.data()),
              memory(std::move(its_memory)),
              number(its_number) {}
        std::uint64_t first() const { return offset / sector_bytes; }
        std::uint64_t count() const { return length / sector_bytes; }
        std::vector<std::byte> memory;  // its place stays when it is moved
        std::uint32_t number;
        std::uint64_t submitted = 0;  // the model's time
    };
    // What a sector may show after a kill, in place of what it shows: `shown` wasn't flushed yet.
    struct Earlier {
        std::uint32_t number;
        std::uint64_t until;  // the model's time: a flush that was submitted later has ended it
    };
    // The origin, or a snapshot.
    struct Volume {
        std::string name;
        std::string table;
        std::unique_ptr<OpenDevice> opened{};
        Shown shown = Shown(sectors);
        std::map<std::uint64_t, std::vector<Earlier>> earlier{};  // by sector
        bool may_fill_up = false;
        bool going = false;  // takes no more requests
        std::list<std::unique_ptr<Slot>> slots{};

        bool transient() const { return table.find(" N ") != std::string::npos; }
    };

    std::uint64_t draw(std::uint64_t count) { return random_() % count; }

    // --- Requests ---

    void submit(Volume& volume) {
        if (volume.going || volume.slots.size() == most_in_flight)
            return;
        const std::uint64_t what = draw(20);
        const IoOperation operation = what < 10   ? IoOperation::write
                                      : what < 18 ? IoOperation::read
                                      : what < 19 ? (draw(2) == 0 ? IoOperation::write_zeroes : IoOperation::discard)
                                                  : IoOperation::flush;
        // Whole blocks of a pool, and large chunks, go only by discards of more.
        const std::uint64_t most = operation == IoOperation::discard ? 600 : draw(5) == 0 ? 120 : 12;
        const std::uint64_t first = draw(sectors);
        const std::uint64_t count = std::min(sectors - first, 1 + draw(most));
        for (const auto& slot : volume.slots)
            if (slot->first() < first + count && first < slot->first() + slot->count())
                return;
        const bool has_data = operation == IoOperation::write || operation == IoOperation::read;
        std::vector<std::byte> memory(has_data ? count * sector_bytes : 0);
        const std::uint32_t number = operation == IoOperation::write ? ++last_ : 0;
        for (std::size_t at = 0; at < memory.size(); at += 4)
            std::memcpy(&memory[at], &number, 4);
        volume.slots.push_back(operation == IoOperation::flush
                                   ? std::make_unique<Slot>(operation, 0, 0, std::move(memory), 0)
                                   : std::make_unique<Slot>(operation, first, count, std::move(memory), number));
        volume.slots.back()->submitted = ++time_;
        volume.opened->device().submit(*queue, *volume.slots.back());
    }

    void take_answers() {
        step();
        for (auto& [name, volume] : volumes_)
            std::erase_if(volume.slots, [&](const auto& slot) {
                if (slot->done)
                    answered(volume, *slot);
                return slot->done;
            });
    }

    void may_show(Volume& volume, std::uint64_t sector, std::uint32_t number) {
        if (number & or_zeros)
            volume.earlier[sector].push_back({0, time_});
        volume.earlier[sector].push_back({number & ~or_zeros, time_});
    }
    // It was made in parts, or not at all.
    void may_be_there(Volume& volume, const Slot& slot) {
        if (slot.operation != IoOperation::read && slot.operation != IoOperation::flush)
            for (std::uint64_t sector = slot.first(); sector < slot.first() + slot.count(); ++sector)
                may_show(volume, sector, slot.number);
    }

    void answered(Volume& volume, const Slot& slot) {
        if (killed_ || (slot.operation == IoOperation::discard && slot.error == EOPNOTSUPP))
            return;
        ++time_;
        if (slot.error != 0) {
            // Only a snapshot whose store is full fails; it is removed soon.
            EXPECT_TRUE(volume.may_fill_up) << volume.name << ": error " << slot.error;
            volume.going = true;
            may_be_there(volume, slot);
            return;
        }
        if (slot.operation == IoOperation::read) {
            for (std::uint64_t at = 0; at < slot.memory.size(); at += 4) {
                std::uint32_t found = 0;
                std::memcpy(&found, &slot.memory[at], 4);
                const std::uint64_t sector = slot.first() + at / sector_bytes;
                std::uint32_t& shown = volume.shown[sector];
                if ((shown & or_zeros) != 0 && (found == 0 || found == (shown & ~or_zeros))) {
                    may_show(volume, sector, shown);
                    shown = found;  // of all of the sector, and for good
                }
                if (found != shown) {
                    ADD_FAILURE() << volume.name << ", sector " << sector << ": " << found << " instead of " << shown;
                    return;
                }
            }
        } else if (slot.operation == IoOperation::discard) {
            for (std::uint64_t sector = slot.first(); sector < slot.first() + slot.count(); ++sector)
                volume.shown[sector] |= or_zeros;
        } else if (slot.operation == IoOperation::flush) {
            for (auto& [sector, numbers] : volume.earlier)
                std::erase_if(numbers, [&](const Earlier& earlier) { return earlier.until < slot.submitted; });
        } else {
            for (std::uint64_t sector = slot.first(); sector < slot.first() + slot.count(); ++sector) {
                may_show(volume, sector, volume.shown[sector]);
                volume.shown[sector] = slot.number;
            }
        }
    }

    void drain(Volume& volume) {
        while (!volume.slots.empty())
            take_answers();
    }

    void check_all_of(Volume& volume) {
        drain(volume);
        for (std::uint64_t first = 0; first < sectors && !volume.going; first += 512) {
            volume.slots.push_back(std::make_unique<Slot>(IoOperation::read, first, 512, std::vector<std::byte>(512 * sector_bytes), 0));
            volume.opened->device().submit(*queue, *volume.slots.back());
            drain(volume);
        }
    }

    // --- Verbs ---

    // Carries out a verb while answers come in. With `busy`, requests are submitted meanwhile, too.
    template <typename Verb>
    auto verb(Verb carry_out, bool busy = false) {
        auto result = std::async(std::launch::async, carry_out);
        while (result.wait_for(Duration(0)) != std::future_status::ready) {
            if (busy)
                submit(any());
            take_answers();
            std::this_thread::yield();
        }
        return result.get();
    }
    template <typename T>
    void expect(const Result<T>& result, const std::string& what) {
        if (!result) {
            ADD_FAILURE() << what << ": " << result.error().message();
            std::abort();  // what is in flight would write to memory that is gone
        }
    }
    // Until it is true, as dmsetup's process would call it.
    template <typename Verb>
    void until_done(const std::string& what, bool busy, Verb call) {
        const Result<bool> done = verb(
            [&]() -> Result<bool> {
                for (;;)
                    if (const Result<bool> now = call(); !now || *now)
                        return now;
            },
            busy);
        expect(done, what);
    }
    void suspend_device(const std::string& name, bool busy = false) {
        until_done("suspend " + name, busy, [&] { return mapper.suspend(name, {}); });
    }
    void resume_device(const std::string& name, bool busy = false) {
        until_done("resume " + name, busy, [&] { return mapper.resume(name); });
    }
    void load_table(const std::string& name, const std::string& text) {
        expect(verb([&] { return load(name, text); }), name + ": " + text);
    }
    void make_device(const std::string& name, const std::string& text) {
        expect(mapper.create(name, ""), name);
        load_table(name, text);
        resume_device(name);
    }
    void remove_device(const std::string& name) {
        expect(verb([&] { return mapper.remove(name); }), "remove " + name);
    }

    Volume& any() { return std::next(volumes_.begin(), static_cast<std::ptrdiff_t>(draw(volumes_.size())))->second; }
    Volume& origin() { return volumes_.at("origin"); }

    void open_volume(const std::string& name, const std::string& text, const Shown& shown) {
        Volume& volume = volumes_.try_emplace(name).first->second;
        volume.name = name;
        volume.table = text;
        volume.shown = shown;
        use(volume);
    }
    void use(Volume& volume) { volume.opened = std::move(mapper.open(volume.name).value()); }

    // --- What happens to the devices ---

    void take() {
        const std::string number = std::to_string(draw(most_snapshots));
        const std::string store = "cow" + number, name = "snap" + number;
        if (volumes_.contains(name) || !merging_.empty())
            return;
        // What an older snapshot left is no store.
        expect(write_now(mapper.open(store).value()->device(), 0, std::vector<std::byte>(4096)), store);
        const char* const types[] = {"P", "PO", "N"};
        const bool small = draw(3) == 0;
        const std::uint64_t chunk = 1u << draw(small ? 5 : 10);
        if (small != short_[store]) {
            short_[store] = small;
            suspend_device(store);
            load_table(store, store_table(store));
            resume_device(store);
        }
        // What was discarded is known then, and must be the same in both.
        if (draw(2) == 0)
            check_all_of(origin());
        // As LVM does it: the origin's writes end, then the snapshot begins.
        suspend_device("origin");
        drain(origin());
        const char* const features[] = {"", " 1 discard_zeroes_cow"};
        const std::string text = fmt::format("0 {} snapshot real {} {} {}{}", sectors, store, types[draw(3)], chunk, features[draw(2)]);
        make_device(name, text);
        open_volume(name, text, origin().shown);
        volumes_.at(name).may_fill_up = small;
        submit(origin());
        submit(volumes_.at(name));
        resume_device("origin");
    }

    void remove(Volume& volume) {
        const std::string name = volume.name;
        volume.going = true;
        drain(volume);
        volumes_.erase(name);
        remove_device(name);
    }

    void remove_what_filled_up() {
        for (unsigned number = 0; number < most_snapshots; ++number) {
            const auto found = volumes_.find(fmt::format("snap{}", number));
            if (found != volumes_.end() && found->second.going) {
                EXPECT_TRUE(status(found->first).ends_with(" Invalid\n") || status(found->first).ends_with(" Overflow\n"))
                    << status(found->first);
                remove(found->second);
            }
        }
    }

    void merge(Volume& volume) {
        if (!merging_.empty()) {
            const std::string line = verb([&] { return status("origin"); });
            std::uint64_t allocated = 0, total = 0, metadata = 0;
            if (std::sscanf(line.c_str(), "%*u %*u snapshot-merge %lu/%lu %lu", &allocated, &total, &metadata) != 3) {
                ADD_FAILURE() << line;
                merging_.clear();
            } else if (allocated == metadata) {
                suspend_device("origin", true);
                load_table("origin", origin().table);
                resume_device("origin", true);
                merging_.clear();
            }
            return;
        }
        // A full store would lose the merge with the snapshot.
        if (volume.name == "origin" || volume.may_fill_up || volume.transient())
            return;
        merging_ = "cow" + volume.name.substr(4);
        std::string text = volume.table;
        text.replace(text.find("snapshot"), 8, "snapshot-merge");
        suspend_device("origin");
        drain(origin());
        drain(volume);
        Shown shown = volume.shown;
        remove(volume);  // with which all of it is durable
        origin().shown = std::move(shown);
        origin().earlier.clear();
        merge_table_ = text;
        load_table("origin", text);
        submit(origin());
        resume_device("origin");
    }

    // A device's own table again, or just a pause. What is transient ends with its table.
    void pause(Volume& volume) {
        suspend_device(volume.name, true);
        if (volume.name != "origin" && !volume.transient() && draw(2) == 0)
            load_table(volume.name, volume.table);
        for (unsigned count = 0; count < 3; ++count)
            submit(volume);
        resume_device(volume.name, true);
    }

    // A table below that says the same in other words; from the top down, and up again.
    void change_below() {
        std::vector<std::string> names;
        for (auto& [name, volume] : volumes_)
            names.push_back(name);
        std::sort(names.rbegin(), names.rend());  // snapshots, then the origin
        for (const std::string& name : names)
            suspend_device(name, true);
        const std::string store = fmt::format("cow{}", draw(most_snapshots));
        const bool of_store = draw(2) == 0;
        const std::string below = of_store ? store : "real";
        suspend_device(below, true);
        load_table(below, of_store ? store_table(store) : real_table());
        resume_device(below, true);
        for (auto name = names.rbegin(); name != names.rend(); ++name)
            resume_device(*name, true);
    }

    std::string store_table(const std::string& store) {
        const std::uint64_t start = store_place * static_cast<std::uint64_t>(store.back() - '0');
        const std::uint64_t length = short_[store] ? 512 : store_place;
        if (draw(2) == 0)
            return fmt::format("0 {} linear b.img {}", length, start);
        return fmt::format("0 264 linear b.img {}\n264 {} linear b.img {}", start, length - 264, start + 264);
    }

    std::string real_table() {
        const std::string& kind = std::get<0>(GetParam());
        if (kind == "striped")
            return fmt::format("0 {} striped 2 16 a.img 0 b.img 20480", sectors);
        if (kind == "thin")
            return fmt::format("0 {} thin pool 0", sectors);
        if (draw(2) == 0)
            return fmt::format("0 {} linear a.img 0", sectors);
        return fmt::format("0 1000 linear a.img 0\n1000 {} striped 1 8 a.img 1000", sectors - 1000);
    }

    bool thin() const { return std::get<0>(GetParam()) == "thin"; }

    void make_below(bool first) {
        if (thin()) {
            make_device("meta", "0 8192 linear a.img 0");
            make_device("data", "0 16384 linear a.img 8192");
            make_device("pool", "0 16384 thin-pool meta data 128 4");
            if (first)
                expect(mapper.message("pool", 0, "create_thin 0"), "create_thin");
        }
        make_device("real", real_table());
        for (unsigned number = 0; number < most_snapshots; ++number)
            make_device(fmt::format("cow{}", number), store_table(fmt::format("cow{}", number)));
    }

    void build() {
        make_below(true);
        const std::string text = fmt::format("0 {} snapshot-origin real", sectors);
        make_device("origin", text);
        open_volume("origin", text, Shown(sectors));
    }

    // --- The whole of it, anew ---

    // What goes to the files goes through one of these. Suspended in this order: a pool that waits for its metadata takes no notice of what
    // it has in flight elsewhere.
    std::vector<std::string> below() const {
        std::vector<std::string> names = thin() ? std::vector<std::string>{"real", "data", "meta"} : std::vector<std::string>{"real"};
        for (unsigned number = 0; number < most_snapshots; ++number)
            names.push_back(fmt::format("cow{}", number));
        return names;
    }

    // What is written goes to the disk before it can be read past the page cache: not the holes, too.
    static void copy_sparse(const std::string& from, const std::string& to) {
        std::ifstream source(from, std::ios::binary);
        std::ofstream copy(to, std::ios::binary | std::ios::trunc);
        std::vector<char> piece(65536);
        for (std::streamoff at = 0; source.read(piece.data(), static_cast<std::streamsize>(piece.size())); at += source.gcount())
            if (std::ranges::any_of(piece, [](char byte) { return byte != 0; }))
                copy.seekp(at).write(piece.data(), source.gcount());
        copy.close();
        ASSERT_TRUE(copy);
        std::filesystem::resize_file(to, std::filesystem::file_size(from));
    }

    // The files as a kill leaves them, with requests in flight: once every device below holds back what comes, nothing changes them any
    // more, and nothing above was told to get ready. What happens after that has not happened.
    void kill() {
        for (unsigned count = 0; count < most_in_flight; ++count)
            submit(any());
        std::vector<std::string> names = below();
        for (const std::string& name : names)
            suspend_device(name, true);
        for (const char* name : {"a.img", "b.img"})
            copy_sparse(image(name), image(name) + ".killed");
        for (auto& [name, volume] : volumes_)
            for (const auto& slot : volume.slots)
                may_be_there(volume, *slot);
        killed_ = true;
        for (auto name = names.rbegin(); name != names.rend(); ++name)
            resume_device(*name);
    }

    void remove_all() {
        std::vector<std::string> names;
        for (auto& [name, volume] : volumes_) {
            drain(volume);
            volume.opened.reset();
            names.push_back(name);
        }
        std::shuffle(names.begin(), names.end(), random_);
        names.push_back("real");
        if (thin())
            names.push_back("pool");
        for (const std::string& name : below())
            if (name != "real")
                names.push_back(name);
        for (const std::string& name : names) {
            suspend_device(name);  // however long it takes
            remove_device(name);
        }
        EXPECT_TRUE(mapper.devices().empty());
    }

    bool ends_with(const std::string& name, const char* word) {
        return verb([&] { return status(name); }).ends_with(fmt::format(" {}\n", word));
    }

    // Nothing else is in flight.
    std::optional<Shown> read_all(Volume& volume) {
        std::vector<std::byte> memory(sectors * sector_bytes);
        test::Request reading(IoOperation::read, 0, memory.size(), memory.data());
        if (const int error = reading.run(volume.opened->device(), *queue); error != 0) {
            EXPECT_TRUE(volume.may_fill_up) << volume.name << ": error " << error;  // while something merges
            volume.going = true;
            return std::nullopt;
        }
        Shown found(sectors);
        for (std::uint64_t sector = 0; sector < sectors; ++sector) {
            const std::byte* bytes = &memory[sector * sector_bytes];
            std::memcpy(&found[sector], bytes, 4);
            EXPECT_EQ(std::memcmp(bytes, bytes + 4, sector_bytes - 4), 0) << volume.name << ", sector " << sector << " is torn";
        }
        return found;
    }

    // Of all that a volume may show it shows one thing now, and stays with it.
    void settle(Volume& volume) {
        std::optional<Shown> found = read_all(volume);
        if (!found)
            return;
        for (std::uint64_t sector = 0; sector < sectors; ++sector) {
            const std::uint32_t shown = volume.shown[sector], number = (*found)[sector];
            const auto others = volume.earlier.find(sector);
            if (number != (shown & ~or_zeros) && !(number == 0 && (shown & or_zeros) != 0) &&
                (others == volume.earlier.end() ||
                 std::ranges::none_of(others->second, [&](const Earlier& earlier) { return earlier.number == number; }))) {
                ADD_FAILURE() << volume.name << ", sector " << sector << ": " << number << " instead of " << shown << ", with "
                              << (others == volume.earlier.end() ? 0 : others->second.size()) << " others possible";
                break;
            }
        }
        volume.shown = *std::move(found);
        volume.earlier.clear();
    }

    void reopen() {
        SCOPED_TRACE("opened again");
        const bool killed = draw(2) == 0;
        // One that begins only now isn't over yet.
        if (merging_.empty() && draw(2) == 0)
            merge(any());
        if (!killed)
            for (auto& [name, volume] : volumes_)
                drain(volume);
        std::vector<std::string> invalid;
        for (const auto& [name, volume] : volumes_)
            if (name != "origin" && ends_with(name, "Invalid"))
                invalid.push_back(name);
        if (killed)
            kill();
        remove_all();
        if (killed)
            for (const char* name : {"a.img", "b.img"})
                std::filesystem::rename(image(name) + ".killed", image(name));
        else
            for (auto& [name, volume] : volumes_)
                if (!volume.going)
                    volume.earlier.clear();
        killed_ = false;

        make_below(false);
        // A merge lets no snapshot begin after it.
        for (auto& [name, volume] : volumes_) {
            if (name == "origin")
                continue;
            volume.going = false;
            make_device(name, volume.table);
            use(volume);
            if (!volume.transient())
                continue;
            // As new. It shows what is there, be it half merged.
            EXPECT_FALSE(ends_with(name, "Invalid")) << name;
            volume.earlier.clear();
            volume.shown = read_all(volume).value_or(Shown(sectors));
        }
        make_device("origin", merging_.empty() ? origin().table : merge_table_);
        use(origin());
        settle(origin());
        for (auto& [name, volume] : volumes_) {
            if (name == "origin")
                continue;
            const bool was_invalid = std::ranges::count(invalid, name) != 0;
            if (volume.transient()) {
                EXPECT_TRUE(!merging_.empty() || volume.shown == origin().shown) << name;
            } else if (ends_with(name, "Invalid")) {
                // When nobody looked, a write to the origin or a step of a merge may have found no room.
                EXPECT_TRUE(was_invalid || (volume.may_fill_up && (killed || !merging_.empty()))) << name;
                volume.going = true;
            } else {
                EXPECT_FALSE(was_invalid) << name;
                EXPECT_FALSE(ends_with(name, "Overflow")) << name << ": a full store that nobody has written to";
                settle(volume);
            }
        }
    }

    void act() {
        Volume& volume = any();
        const std::uint64_t what = draw(100);
        if (what < 78)
            submit(volume);
        else if (what < 86)
            take();
        else if (what < 89)
            pause(volume);
        else if (what < 91)
            change_below();
        else if (what < 93)
            reopen();
        else if (what < 95 && volume.name != "origin")
            remove(volume);
        else
            merge(volume);
        take_answers();
        if (draw(8) == 0)
            remove_what_filled_up();
    }

    void run(std::uint64_t seed) {
        random_.seed(seed);
        build();
        for (unsigned count = 0; count < 400 && !HasFailure(); ++count)
            act();
        for (auto& [name, volume] : volumes_)
            check_all_of(volume);
        remove_what_filled_up();
        volumes_.clear();
    }

    std::mt19937_64 random_;
    std::map<std::string, Volume> volumes_;
    std::map<std::string, bool> short_;  // stores that are soon full
    std::string merging_;                // the store
    std::string merge_table_;
    std::uint32_t last_ = 0;
    std::uint64_t time_ = 0;
    bool killed_ = false;  // what is answered now has nobody to hear it
};

TEST_P(SnapshotModel, ShowsWhatThePlainModelShows) {
    const char* given = std::getenv("LAMELLA_TEST_SEED");
    const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    fmt::print(stderr, "LAMELLA_TEST_SEED={}\n", seed);  // a crash, or a test that hangs, tells of no trace
    SCOPED_TRACE(fmt::format("LAMELLA_TEST_SEED={}", seed));
    run(seed);
}

INSTANTIATE_TEST_SUITE_P(Below, SnapshotModel, testing::Combine(testing::Values("linear", "striped", "thin"), testing::Range(0u, seeds)),
                         [](const auto& one) { return fmt::format("{}_{}", std::get<0>(one.param), std::get<1>(one.param)); });

}  // namespace
}  // namespace lamella::mapper
