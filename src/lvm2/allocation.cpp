// SPDX-License-Identifier: Apache-2.0
//
// LVM's allocator is a search whose outcome depends on what it reserved on the way and in which order its lists are by then. So
// this is the same search, step by step; the facts are those of lvm2 2.03.16 (lib/metadata/lv_manip.c and pv_map.c).
//
// Passes. A pass takes one run for each stripe, all on different physical volumes, and makes a segment of them, as long as the
// shortest; what it took stays when the next pass goes on. Three policies are tried in turn, up to the one that holds:
//
//   contiguous  extending: the runs right behind the last segment, on all its stripes; new: any runs. One pass.
//   cling       extending: runs of the volumes that the first segment is on (the others don't count), or right behind the last
//               one, each as the stripe that is on that volume; when that finds nothing more, as any stripe. New: runs of the
//               volumes just taken, each as the same stripe. As often as it goes.
//   normal      runs of the volumes that the first segment or what was just found is on, or right behind the last one; when
//               that finds nothing, any runs, and then from the start again.
//
// Runs. A volume's are looked at from the largest on, equals in the order of their places. Where each fills a certain stripe the
// first that will do is taken. Else each that will do replaces the one before it: bound to certain volumes all will do, and
// the last is taken; free, all that hold what is wanted will do after the first, so the tightest is taken, else the largest.
// Then the volumes with most of what is wanted serve, and of equals those that come first in the group or were named first.
//
// Reservations. A run that is looked at is reserved. When something of it is left it moves in the list to where a run of that size
// belongs, and the walk goes on from there: what lies between is passed over. Before each pass all are released: one after the other
// goes back to its place, behind others of its size, and the walk again goes on from there, so that others of its size stay reserved
// for one pass more. All this shows in groups with many runs of few sizes.
//
// A new pool's metadata is one run more in the first pass: the smallest that holds it, of the volumes that are looked at. When
// there are no more volumes than stripes, normal looks at all of them once more and takes the metadata from what isn't
// reserved. LVM fails when that finds nothing, though there may be room, and comes to grief (an assertion, or "PV segments corrupted")
// when the run that it chose is one of the data's and too short for both. Here the metadata then gets a run by itself,
// and the data is placed after it.
#include "lvm2/allocation.h"

#include <algorithm>
#include <limits>
#include <list>
#include <optional>
#include <set>
#include <unordered_map>

namespace lamella::lvm2 {

namespace {

// In groups with more free runs than this nothing moves by being reserved, and the largest are taken: what it costs to follow LVM
// grows with the cube.
constexpr std::size_t max_exact_runs = 1024;

// The extents of a physical volume that are spoken for. Extents that are claimed twice, or beyond the end, do no harm here.
class UsedExtents {
  public:
    explicit UsedExtents(const VolumeGroup& group) {
        std::unordered_map<std::string_view, std::vector<ExtentRun>*> names;
        for (const PhysicalVolume& volume : group.physical_volumes)
            names[volume.name] = &used_[volume.name];
        for (const LogicalVolume& volume : group.logical_volumes)
            for (const Segment& segment : volume.segments) {
                const auto use = [&](std::string_view name, std::int64_t first, std::uint32_t count) {
                    if (const auto found = names.find(name);
                        found != names.end() && first >= 0 && first <= std::numeric_limits<std::uint32_t>::max())
                        found->second->push_back({static_cast<std::uint32_t>(first), count});
                };
                if (const Striped* striped = segment.as<Striped>()) {
                    for (const Area& area : striped->areas)
                        use(area.name, area.first_extent, segment.extent_count / static_cast<std::uint32_t>(striped->areas.size()));
                } else if (segment.as<Opaque>()) {
                    for (const KeptEntry& kept : segment.kept)
                        use_array(kept.entry, segment.extent_count, use);
                }
            }
        for (auto& [name, runs] : used_)
            std::ranges::sort(runs, {}, &ExtentRun::first);
    }

    std::vector<ExtentRun> free_runs(const PhysicalVolume& volume) const {
        std::vector<ExtentRun> runs;
        std::uint64_t next = 0;
        const auto add = [&](std::uint64_t end) {
            if (end > next)
                runs.push_back({static_cast<std::uint32_t>(next), static_cast<std::uint32_t>(end - next)});
        };
        for (const ExtentRun& run : used_.at(volume.name)) {
            add(std::min<std::uint64_t>(run.first, volume.extent_count));
            next = std::max(next, std::uint64_t(run.first) + run.count);
        }
        add(volume.extent_count);
        return runs;
    }

  private:
    // Segments of types that aren't understood: "volume", first extent.
    template <typename Use>
    static void use_array(const TextEntry& entry, std::uint32_t count, const Use& use) {
        const TextArray* array = entry.value() ? entry.value()->array() : nullptr;
        for (std::size_t i = 0; array != nullptr && i + 1 < array->size(); ++i)
            if ((*array)[i].string() && (*array)[i + 1].integer())
                use(*(*array)[i].string(), *(*array)[i + 1].integer(), count);
    }

    std::unordered_map<std::string_view, std::vector<ExtentRun>> used_;
};

std::vector<const PhysicalVolume*> allowed_volumes(const VolumeGroup& group, std::span<const std::string> allowed) {
    std::vector<const PhysicalVolume*> volumes;
    const auto add = [&](const PhysicalVolume& volume) {
        if (volume.allocatable() && std::ranges::find(volumes, &volume) == volumes.end())
            volumes.push_back(&volume);
    };
    if (allowed.empty())
        std::ranges::for_each(group.physical_volumes, add);
    for (const std::string& name : allowed)
        if (const PhysicalVolume* volume = group.physical_volume(name))
            add(*volume);
    return volumes;
}

struct FreeRun {
    std::uint32_t first = 0;
    std::uint32_t count = 0;
    std::uint32_t unreserved = 0;  // by the present choice
};
using Runs = std::list<FreeRun>;

// A physical volume's free runs in the order in which they are looked at: see above.
struct FreeVolume {
    const PhysicalVolume* volume;
    bool exactly;  // as LVM orders them; else always by size
    Runs runs;

    // All of it at choice again.
    void release() {
        for (auto run = runs.begin(); run != runs.end(); ++run)
            if (run->unreserved != run->count) {
                run->unreserved = run->count;
                if (exactly)
                    move(run, run->count);  // and on from there
            } else if (!exactly) {
                break;  // where nothing moves, those in front are reserved
            }
    }
    // Returns what was to be had.
    std::uint32_t reserve(Runs::iterator run, std::uint32_t wanted) {
        const std::uint32_t reserved = std::min(wanted, run->unreserved);
        run->unreserved -= reserved;
        if (exactly && run->unreserved > 0)
            move(run, run->unreserved);
        return reserved;
    }
    // Returns the first of the extents taken.
    std::uint32_t take(Runs::iterator run, std::uint32_t count) {
        const std::uint32_t first = run->first;
        if (count == run->count) {
            runs.erase(run);
        } else {
            *run = {first + count, run->count - count, run->count - count};
            move(run, run->count);
        }
        return first;
    }

  private:
    void move(Runs::iterator run, std::uint32_t size) {
        const auto smaller = [&](const FreeRun& other) { return &other != &*run && other.count < size; };
        runs.splice(std::ranges::find_if(runs, smaller), runs, run);
    }
};

// A run that would serve as a stripe.
struct Choice {
    FreeVolume* volume = nullptr;
    Runs::iterator run;
    std::uint32_t usable = 0;
};

// Which runs will do. None of the three: any.
struct Rule {
    bool behind = false;    // the one right behind a stripe of the last segment
    bool on_first = false;  // those of volumes that the first segment is on
    bool on_found = false;  // those of volumes that what was found so far is on
    // The first such run of a volume serves as that very stripe, and all stripes must find one; else the largest are chosen.
    bool in_place = false;

    bool any() const { return !behind && !on_first && !on_found; }
    bool contiguous() const { return behind && !on_first; }
};

class Allocation {
  public:
    Allocation(const VolumeGroup& group, const Placement& placement, std::uint32_t start_extent, std::uint32_t extents,
               std::uint32_t metadata_extents, std::span<const Segment> extends)
        : stripes_(placement.stripes),
          stripe_sectors_(placement.stripe_sectors),
          policy_(placement.policy.value_or(allocation_policy(group))),
          extends_(extends),
          metadata_extents_(metadata_extents),
          next_(start_extent),
          wanted_(extents / placement.stripes),
          found_on_(placement.stripes) {
        const UsedExtents used(group);
        std::size_t count = 0;
        for (const PhysicalVolume* volume : allowed_volumes(group, placement.physical_volumes)) {
            FreeVolume& free = volumes_.emplace_back(FreeVolume{volume, true, {}});
            for (const ExtentRun& run : used.free_runs(*volume)) {
                free.runs.push_back({run.first, run.count, run.count});
                free_ += run.count;
                ++count;
            }
            free.runs.sort([](const FreeRun& left, const FreeRun& right) { return left.count > right.count; });
        }
        if (count > max_exact_runs)
            for (FreeVolume& volume : volumes_)
                volume.exactly = false;
    }

    std::uint64_t free() const { return free_; }
    // Extents that found no place, after run().
    std::uint64_t missing() const { return std::uint64_t(wanted_) * stripes_ + (needs_metadata() ? metadata_extents_ : 0); }

    void run() {
        find_places();
        if (needs_metadata() && place_metadata())
            find_places();
    }

    // Why they found none.
    std::string reason() const {
        if (policy_ != AllocationPolicy::normal)
            return fmt::format("the allocation policy is '{}'", policy_ == AllocationPolicy::cling ? "cling" : "contiguous");
        std::string text;
        if (stripes_ > 1)
            text = fmt::format("{} stripes need different physical volumes", stripes_);
        if (needs_metadata())
            text += fmt::format("{}metadata needs one run of {} extents", text.empty() ? "" : ", ", metadata_extents_);
        return text;
    }

    std::vector<Segment> data() && { return std::move(found_); }
    Segment metadata() && { return std::move(*metadata_); }

  private:
    bool needs_metadata() const { return metadata_extents_ > 0 && !metadata_; }

    void find_places() {
        const bool extends = !extends_.empty();
        choose(extends ? Rule{.behind = true, .in_place = true} : Rule{});
        if (policy_ == AllocationPolicy::contiguous)
            return;
        Rule cling{.behind = extends, .on_first = extends, .on_found = !extends, .in_place = true};
        while (choose(cling)) {}
        if (extends) {
            cling.in_place = false;
            while (choose(cling)) {}
        }
        if (policy_ == AllocationPolicy::cling)
            return;
        cling = {.behind = extends, .on_first = extends, .on_found = true};
        while (choose(cling, true) || choose(Rule{}, true)) {}
    }

    // The tightest run of the volume with the largest that holds it. False: there is none.
    bool place_metadata() {
        FreeVolume* on = nullptr;
        std::uint32_t largest = metadata_extents_ - 1;
        for (FreeVolume& volume : volumes_)
            for (const FreeRun& run : volume.runs)
                if (run.count > largest) {
                    largest = run.count;
                    on = &volume;
                }
        if (!on)
            return false;
        auto tightest = on->runs.end();
        for (auto run = on->runs.begin(); run != on->runs.end(); ++run)
            if (run->count >= metadata_extents_ && (tightest == on->runs.end() || run->count < tightest->count))
                tightest = run;
        take_metadata(*on, tightest);
        return true;
    }

    // Takes a run for each stripe, and the first time for the metadata. False: nothing was taken. `shares`: the metadata may be on
    // a volume of the data.
    bool choose(const Rule& rule, bool shares = false) {
        if (wanted_ == 0)
            return false;
        for (FreeVolume& volume : volumes_)
            volume.release();
        std::vector<Choice> choices(rule.in_place ? stripes_ : 0);
        look_for(rule, choices);
        if (rule.in_place) {
            if (std::ranges::any_of(choices, [](const Choice& choice) { return choice.volume == nullptr; }))
                return false;
        } else {
            std::size_t sorted_from = 0;
            if (shares && needs_metadata() && choices.size() == stripes_) {
                look_for(Rule{}, choices);
                sorted_from = stripes_;
            }
            std::stable_sort(choices.begin() + static_cast<std::ptrdiff_t>(sorted_from), choices.end(),
                             [](const Choice& left, const Choice& right) { return left.usable > right.usable; });
        }
        if (choices.size() < stripes_ + needs_metadata())
            return false;
        if (needs_metadata())
            return take_with_metadata(choices);
        take(choices, shortest(choices));
        return true;
    }

    // Adds to `choices`, or fills them in place. At most one of each volume: of several runs that will do, the last.
    void look_for(const Rule& rule, std::vector<Choice>& choices) {
        for (FreeVolume& volume : volumes_) {
            bool found = false;
            for (auto run = volume.runs.begin(); run != volume.runs.end(); ++run) {
                if (run->unreserved == 0)
                    continue;
                if (!rule.any()) {
                    const std::optional<std::size_t> stripe = stripe_of(rule, volume, *run, choices);
                    if (!stripe && rule.contiguous())
                        continue;
                    if (!stripe)
                        break;
                    if (rule.in_place) {
                        choices[*stripe] = {&volume, run, run->count};
                        break;
                    }
                } else if (run->unreserved < wanted_ && (found || (policy_ == AllocationPolicy::contiguous && metadata_extents_ == 0))) {
                    break;
                }
                if (!found)
                    choices.emplace_back();
                found = true;
                choices.back() = {&volume, run, volume.reserve(run, std::max(wanted_, metadata_extents_))};
                if (!volume.exactly && !rule.any())
                    break;
            }
        }
    }

    // The stripe that a run will do for. In place: one that has none yet.
    std::optional<std::size_t> stripe_of(const Rule& rule, const FreeVolume& volume, const FreeRun& run,
                                         const std::vector<Choice>& choices) const {
        const auto stripe_on = [&](const Segment& segment, auto fits) -> std::optional<std::size_t> {
            const Striped* body = segment.as<Striped>();
            for (std::size_t i = 0; body && i < body->areas.size(); ++i)
                if (body->areas[i].name == volume.volume->name && fits(body->areas[i]) &&
                    (!rule.in_place || (i < stripes_ && choices[i].volume == nullptr)))
                    return i;
            return std::nullopt;
        };
        const auto anywhere = [](const Area&) { return true; };
        std::optional<std::size_t> stripe;
        if (rule.behind)
            stripe = stripe_on(extends_.back(), [&](const Area& area) {
                return std::uint64_t(area.first_extent) + extends_.back().extent_count / stripes_ == run.first;
            });
        if (!stripe && rule.on_first)
            stripe = stripe_on(extends_.front(), anywhere);
        for (std::size_t i = 0; rule.on_found && !stripe && i < found_on_.size(); ++i)
            if (found_on_[i].contains(&volume) && (!rule.in_place || choices[i].volume == nullptr))
                stripe = i;
        return stripe;
    }

    // The smallest that holds it is the metadata's.
    bool take_with_metadata(const std::vector<Choice>& choices) {
        auto metadata = choices.rbegin();
        while (metadata != choices.rend() && metadata->usable < metadata_extents_)
            ++metadata;
        if (metadata == choices.rend())
            return false;
        const Choice chosen = *metadata;
        const std::uint32_t length = shortest(choices);
        for (const Choice& choice : std::span(choices).first(stripes_))
            if (&*choice.run == &*chosen.run && chosen.run->count - length < metadata_extents_)
                return false;
        take(choices, length);
        take_metadata(*chosen.volume, chosen.run);
        return true;
    }

    void take_metadata(FreeVolume& volume, Runs::iterator run) {
        metadata_ = make_segment({{volume.volume->name, volume.take(run, metadata_extents_)}}, 0, metadata_extents_);
    }

    // A segment of the first of them.
    void take(const std::vector<Choice>& choices, std::uint32_t length) {
        std::vector<Area> areas;
        for (std::size_t i = 0; i < stripes_; ++i) {
            areas.push_back({choices[i].volume->volume->name, choices[i].volume->take(choices[i].run, length)});
            found_on_[i].insert(choices[i].volume);
        }
        found_.push_back(make_segment(std::move(areas), next_, length));
        next_ += length * stripes_;
        wanted_ -= length;
    }

    std::uint32_t shortest(const std::vector<Choice>& choices) const {
        return std::min(wanted_, std::ranges::min(std::span(choices).first(stripes_), {}, &Choice::usable).usable);
    }

    Segment make_segment(std::vector<Area> areas, std::uint32_t start, std::uint32_t length) const {
        Segment segment;
        segment.start_extent = start;
        segment.extent_count = static_cast<std::uint32_t>(length * areas.size());
        segment.type = "striped";
        segment.body = Striped{.areas = std::move(areas), .stripe_sectors = 0};
        if (segment.as<Striped>()->areas.size() > 1)
            segment.as<Striped>()->stripe_sectors = stripe_sectors_;
        return segment;
    }

    std::uint32_t stripes_;
    std::uint32_t stripe_sectors_;
    AllocationPolicy policy_;
    std::span<const Segment> extends_;
    std::uint32_t metadata_extents_;  // 0: none is wanted
    std::uint32_t next_;              // extent of the logical volume
    std::uint32_t wanted_;            // extents of each stripe
    std::uint64_t free_ = 0;
    std::vector<FreeVolume> volumes_;
    std::vector<Segment> found_;
    std::vector<std::set<const FreeVolume*>> found_on_;  // of each stripe
    std::optional<Segment> metadata_;
};

}  // namespace

std::vector<ExtentRun> free_runs(const VolumeGroup& group, std::string_view physical_volume) {
    const PhysicalVolume* volume = group.physical_volume(physical_volume);
    return volume ? UsedExtents(group).free_runs(*volume) : std::vector<ExtentRun>();
}

std::uint64_t free_extents(const VolumeGroup& group, std::span<const std::string> allowed) {
    const UsedExtents used(group);
    std::uint64_t count = 0;
    for (const PhysicalVolume* volume : allowed_volumes(group, allowed))
        for (const ExtentRun& run : used.free_runs(*volume))
            count += run.count;
    return count;
}

AllocationPolicy allocation_policy(const VolumeGroup& group, const LogicalVolume* volume) {
    const auto word = [](const Kept& kept) -> std::string_view {
        for (const KeptEntry& one : kept)
            if (one.entry.key == "allocation_policy" && one.entry.value() && one.entry.value()->string())
                return *one.entry.value()->string();
        return "inherit";
    };
    std::string_view policy = volume ? word(volume->kept) : "inherit";
    if (policy == "inherit")
        policy = word(group.kept);
    return policy == "contiguous" ? AllocationPolicy::contiguous : policy == "cling" ? AllocationPolicy::cling : AllocationPolicy::normal;
}

namespace {

Result<void> check_request(const VolumeGroup& group, const Placement& placement, std::uint32_t start_extent, std::uint32_t extents) {
    const std::uint32_t stripes = placement.stripes;
    if (stripes == 0 || stripes > max_stripes)
        return fail(ErrorKind::usage, "{} stripes; 1 to {} are possible", stripes, max_stripes);
    if (stripes > 1 && (placement.stripe_sectors < min_stripe_sectors || (placement.stripe_sectors & (placement.stripe_sectors - 1)) != 0 ||
                        placement.stripe_sectors > group.extent_sectors))
        return fail(ErrorKind::usage, "a stripe size of {} sectors; a power of two from {} up to the extent size of {} is needed",
                    placement.stripe_sectors, min_stripe_sectors, group.extent_sectors);
    if (extents == 0 || extents % stripes != 0)
        return fail(ErrorKind::usage, "{} extents don't divide into {} stripes", extents, stripes);
    if (extents > std::numeric_limits<std::uint32_t>::max() - start_extent)
        return fail(ErrorKind::usage, "a volume of {} extents, more than 32 bits count", std::uint64_t(start_extent) + extents);
    for (const std::string& name : placement.physical_volumes)
        if (!group.physical_volume(name))
            return fail(ErrorKind::not_found, "group {} has no physical volume {}", group.name, name);
    return {};
}

// Errors: no_space.
Result<void> run(Allocation& allocation, const VolumeGroup& group, const Placement& placement, std::uint64_t extents) {
    const std::uint64_t free = allocation.free();
    if (free < extents)
        return fail(ErrorKind::no_space, "group {} has {} free extents{}; {} are needed, {} are missing", group.name, free,
                    placement.physical_volumes.empty() ? "" : " on the volumes allowed", extents, extents - free);
    allocation.run();
    if (allocation.missing() > 0)
        return fail(ErrorKind::no_space,
                    "group {} has {} free extents{}, but not where {} of the {} that are needed could go: {}; {} are missing", group.name,
                    free, placement.physical_volumes.empty() ? "" : " on the volumes allowed", allocation.missing(), extents,
                    allocation.reason(), allocation.missing());
    return {};
}

}  // namespace

Result<std::vector<Segment>> allocate(const VolumeGroup& group, const Placement& placement, std::uint32_t start_extent,
                                      std::uint32_t extents, std::span<const Segment> extends) {
    TRY(check_request(group, placement, start_extent, extents));
    const Striped* last = extends.empty() ? nullptr : extends.back().as<Striped>();
    if (!extends.empty() && (!last || last->areas.size() != placement.stripes))
        return fail(ErrorKind::usage, "a segment of type {} can't go on with {} stripes", extends.back().type, placement.stripes);
    Allocation allocation(group, placement, start_extent, extents, 0, extends);
    TRY(run(allocation, group, placement, extents));
    std::vector<Segment> segments = std::move(allocation).data();
    join_segments(segments);
    return segments;
}

Result<PoolSegments> allocate_pool(const VolumeGroup& group, const Placement& placement, std::uint32_t data_extents,
                                   std::uint32_t metadata_extents) {
    TRY(check_request(group, placement, 0, data_extents));
    if (metadata_extents == 0)
        return fail(ErrorKind::usage, "a pool without metadata");
    Allocation allocation(group, placement, 0, data_extents, metadata_extents, {});
    TRY(run(allocation, group, placement, std::uint64_t(data_extents) + metadata_extents));
    PoolSegments segments{std::move(allocation).data(), std::move(allocation).metadata()};
    join_segments(segments.data);
    return segments;
}

void join_segments(std::vector<Segment>& segments) {
    std::vector<Segment> joined;
    for (Segment& segment : segments) {
        const Striped* body = segment.as<Striped>();
        Segment* last = joined.empty() ? nullptr : &joined.back();
        Striped* before = last ? last->as<Striped>() : nullptr;
        bool fits = body && before && before->areas.size() == body->areas.size() && before->stripe_sectors == body->stripe_sectors &&
                    last->type == segment.type && last->tags == segment.tags && last->kept.empty() && segment.kept.empty();
        for (std::size_t i = 0; fits && i < body->areas.size(); ++i)
            fits = before->areas[i].name == body->areas[i].name &&
                   before->areas[i].first_extent + last->extent_count / before->areas.size() == body->areas[i].first_extent;
        if (fits)
            last->extent_count += segment.extent_count;
        else
            joined.push_back(std::move(segment));
    }
    segments = std::move(joined);
}

}  // namespace lamella::lvm2
