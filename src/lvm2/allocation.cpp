// SPDX-License-Identifier: Apache-2.0
//
// LVM tries three policies in turn, and what one of them found stays when the next one goes on:
//
//   contiguous  extending: the runs right behind the last segment, on all its stripes; new: the best run of each volume, once
//   cling       the largest run of each physical volume that a stripe of the volume, or of what was just found, is on, in its
//               place among the stripes; then such volumes in any place; as often as it goes
//   normal      the best runs of any volumes, and then again those of the volumes just used
//
// "The best run" of a volume is its largest, or a smaller one that still holds all that is wanted, as long as it is smaller than
// what the choice before would have left over. Of the volumes those with most of what is wanted come first; with equals, the
// group's order decides.
#include "lvm2/allocation.h"

#include <algorithm>
#include <unordered_map>

namespace lamella::lvm2 {

namespace {

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

bool is_allowed(const PhysicalVolume& volume, std::span<const std::string> allowed) {
    return volume.allocatable() && (allowed.empty() || std::ranges::find(allowed, volume.name) != allowed.end());
}

// A physical volume and its free runs, the largest first; of equals the one in front.
struct FreeVolume {
    const PhysicalVolume* volume;
    std::vector<ExtentRun> runs;

    void sort() {
        std::ranges::sort(runs, [](const ExtentRun& left, const ExtentRun& right) {
            return left.count != right.count ? left.count > right.count : left.first < right.first;
        });
    }
    void take(std::size_t index, std::uint32_t count) {
        runs[index].first += count;
        runs[index].count -= count;
        if (runs[index].count == 0)
            runs.erase(runs.begin() + static_cast<std::ptrdiff_t>(index));
        sort();
    }
};

// A run of a volume that would serve as a stripe.
struct Choice {
    FreeVolume* volume = nullptr;
    std::size_t run = 0;
    std::uint32_t usable = 0;  // extents, at most what is wanted

    std::uint32_t first() const { return volume->runs[run].first; }
};

class Allocation {
  public:
    Allocation(const VolumeGroup& group, const Placement& placement, std::uint32_t start_extent, std::uint32_t extents)
        : stripes_(placement.stripes),
          stripe_sectors_(placement.stripe_sectors),
          next_(start_extent),
          wanted_(extents / placement.stripes) {
        const UsedExtents used(group);
        for (const PhysicalVolume& volume : group.physical_volumes)
            if (is_allowed(volume, placement.physical_volumes)) {
                FreeVolume free{&volume, used.free_runs(volume)};
                free.sort();
                for (const ExtentRun& run : free.runs)
                    free_ += run.count;
                volumes_.push_back(std::move(free));
            }
    }

    std::uint64_t free() const { return free_; }
    std::uint32_t wanted() const { return wanted_; }  // still, of each stripe

    std::vector<Segment> run(std::span<const Segment> extends) {
        if (!extends.empty()) {
            contiguous(extends.back());
            while (cling(extends)) {}
            while (take(best_of(volumes_of(extends), false))) {}
        } else {
            take(best_of(volumes_pointers()));
            while (cling(std::span(found_).first(std::min<std::size_t>(found_.size(), 1)))) {}
        }
        for (bool on_used = true; wanted_ > 0;) {
            if (take(best_of(on_used ? volumes_of(found_) : volumes_pointers(), !on_used)))
                on_used = true;
            else if (on_used)
                on_used = false;
            else
                break;
        }
        return std::move(found_);
    }

  private:
    std::vector<FreeVolume*> volumes_pointers() {
        std::vector<FreeVolume*> volumes;
        for (FreeVolume& volume : volumes_)
            volumes.push_back(&volume);
        return volumes;
    }

    FreeVolume* find(std::string_view name) {
        const auto found = std::ranges::find_if(volumes_, [&](const FreeVolume& volume) { return volume.volume->name == name; });
        return found == volumes_.end() ? nullptr : &*found;
    }

    static bool is_on(const Segment& segment, const FreeVolume& volume) {
        const Striped* body = segment.as<Striped>();
        return body && std::ranges::find(body->areas, volume.volume->name, &Area::name) != body->areas.end();
    }

    // Those that the segments are on, in the group's order.
    std::vector<FreeVolume*> volumes_of(std::span<const Segment> segments) {
        std::vector<FreeVolume*> volumes;
        for (FreeVolume& volume : volumes_)
            if (std::ranges::any_of(segments, [&](const Segment& segment) { return is_on(segment, volume); }))
                volumes.push_back(&volume);
        return volumes;
    }

    void contiguous(const Segment& segment) {
        std::vector<Choice> choices;
        for (const Area& area : segment.as<Striped>()->areas) {
            FreeVolume* volume = find(area.name);
            if (volume == nullptr)
                return;
            const std::uint64_t behind = std::uint64_t(area.first_extent) + segment.extent_count / stripes_;
            const auto run = std::ranges::find(volume->runs, behind, &ExtentRun::first);
            if (run == volume->runs.end())
                return;
            choices.push_back({volume, static_cast<std::size_t>(run - volume->runs.begin()), std::min(run->count, wanted_)});
        }
        take(std::move(choices));
    }

    // Each volume serves as the first stripe that one of the segments has on it and that has no run yet.
    bool cling(std::span<const Segment> segments) {
        std::vector<Choice> choices(stripes_);
        for (FreeVolume& volume : volumes_)
            if (Choice* choice = volume.runs.empty() ? nullptr : open_stripe(segments, volume, choices))
                *choice = {&volume, 0, std::min(volume.runs[0].count, wanted_)};
        if (std::ranges::any_of(choices, [](const Choice& choice) { return choice.volume == nullptr; }))
            return false;
        return take(std::move(choices));
    }

    static Choice* open_stripe(std::span<const Segment> segments, const FreeVolume& volume, std::vector<Choice>& choices) {
        for (const Segment& segment : segments)
            if (const Striped* body = segment.as<Striped>())
                for (std::size_t stripe = 0; stripe < std::min(body->areas.size(), choices.size()); ++stripe)
                    if (body->areas[stripe].name == volume.volume->name && choices[stripe].volume == nullptr)
                        return &choices[stripe];
        return nullptr;
    }

    // The best run of each volume, the volumes with most first. Empty: not enough of them. `tight`: a smaller run must hold
    // everything to be better.
    std::vector<Choice> best_of(const std::vector<FreeVolume*>& volumes, bool tight = true) const {
        std::vector<Choice> choices;
        for (FreeVolume* volume : volumes) {
            const std::vector<ExtentRun>& runs = volume->runs;
            Choice choice;
            for (std::size_t i = 0; i < runs.size();) {
                if (choice.volume && tight && runs[i].count < wanted_)
                    break;
                choice = {volume, i, std::min(runs[i].count, wanted_)};
                const std::uint32_t left = runs[i].count - choice.usable;
                ++i;
                while (left > 0 && i < runs.size() && runs[i].count >= left)
                    ++i;
            }
            if (choice.volume)
                choices.push_back(choice);
        }
        if (choices.size() < stripes_)
            return {};
        std::ranges::stable_sort(choices, std::ranges::greater(), &Choice::usable);
        choices.resize(stripes_);
        return choices;
    }

    // Makes a segment of these runs, as long as the shortest. False: nothing was taken.
    bool take(std::vector<Choice> choices) {
        if (choices.empty() || wanted_ == 0)
            return false;
        const std::uint32_t count = std::ranges::min(choices, {}, &Choice::usable).usable;
        Striped body;
        if (stripes_ > 1)
            body.stripe_sectors = stripe_sectors_;
        for (const Choice& choice : choices)
            body.areas.push_back({choice.volume->volume->name, choice.first()});
        for (const Choice& choice : choices)
            choice.volume->take(choice.run, count);
        Segment segment;
        segment.start_extent = next_;
        segment.extent_count = count * stripes_;
        segment.type = "striped";
        segment.body = std::move(body);
        found_.push_back(std::move(segment));
        next_ += count * stripes_;
        wanted_ -= count;
        return true;
    }

    std::uint32_t stripes_;
    std::uint32_t stripe_sectors_;
    std::uint32_t next_;    // extent of the logical volume
    std::uint32_t wanted_;  // extents of each stripe
    std::uint64_t free_ = 0;
    std::vector<FreeVolume> volumes_;
    std::vector<Segment> found_;
};

}  // namespace

std::vector<ExtentRun> free_runs(const VolumeGroup& group, std::string_view physical_volume) {
    const PhysicalVolume* volume = group.physical_volume(physical_volume);
    return volume ? UsedExtents(group).free_runs(*volume) : std::vector<ExtentRun>();
}

std::uint64_t free_extents(const VolumeGroup& group, std::span<const std::string> allowed) {
    const UsedExtents used(group);
    std::uint64_t count = 0;
    for (const PhysicalVolume& volume : group.physical_volumes)
        if (is_allowed(volume, allowed))
            for (const ExtentRun& run : used.free_runs(volume))
                count += run.count;
    return count;
}

Result<std::vector<Segment>> allocate(const VolumeGroup& group, const Placement& placement, std::uint32_t start_extent,
                                      std::uint32_t extents, std::span<const Segment> extends) {
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
    const Striped* last = extends.empty() ? nullptr : extends.back().as<Striped>();
    if (!extends.empty() && (!last || last->areas.size() != stripes))
        return fail(ErrorKind::usage, "a segment of type {} can't go on with {} stripes", extends.back().type, stripes);

    Allocation allocation(group, placement, start_extent, extents);
    if (allocation.free() < extents)
        return fail(ErrorKind::no_space, "group {} has {} free extents{}; {} are needed, {} are missing", group.name, allocation.free(),
                    placement.physical_volumes.empty() ? "" : " on the volumes allowed", extents, extents - allocation.free());
    std::vector<Segment> segments = allocation.run(extends);
    if (allocation.wanted() > 0)
        return fail(ErrorKind::no_space, "group {}: no room for {} stripes on different physical volumes; {} of {} extents are missing",
                    group.name, stripes, std::uint64_t(allocation.wanted()) * stripes, extents);
    join_segments(segments);
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
