// SPDX-License-Identifier: Apache-2.0
//
// Each type's fields are listed once, as pairs of name and member; reading and writing both walk that list, so that they can't
// come apart.
#include "volumes/json.h"

#include <array>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "volumes/volume_group.h"

namespace lamella {

namespace {

template <typename Owner, typename Member>
struct Field {
    const char* name;
    Member Owner::*member;
};
template <typename Owner, typename Member>
Field(const char*, Member Owner::*) -> Field<Owner, Member>;

template <typename T>
struct Fields;

template <>
struct Fields<SizeRequest> {
    static constexpr std::tuple list{
        Field{"base", &SizeRequest::base},
        Field{"relation", &SizeRequest::relation},
        Field{"value", &SizeRequest::value},
    };
};

template <>
struct Fields<CreateVolume> {
    static constexpr std::tuple list{
        Field{"name", &CreateVolume::name},
        Field{"size", &CreateVolume::size},
        Field{"pool", &CreateVolume::pool},
        Field{"linear", &CreateVolume::linear},
        Field{"stripes", &CreateVolume::stripes},
        Field{"stripe_size", &CreateVolume::stripe_size},
        Field{"external_origin", &CreateVolume::external_origin},
        Field{"origin_file", &CreateVolume::origin_file},
        Field{"tags", &CreateVolume::tags},
        Field{"read_only", &CreateVolume::read_only},
    };
};

template <>
struct Fields<CreatePool> {
    static constexpr std::tuple list{
        Field{"name", &CreatePool::name},
        Field{"size", &CreatePool::size},
        Field{"chunk_size", &CreatePool::chunk_size},
        Field{"metadata_size", &CreatePool::metadata_size},
        Field{"stripes", &CreatePool::stripes},
        Field{"stripe_size", &CreatePool::stripe_size},
        Field{"zero_new_blocks", &CreatePool::zero_new_blocks},
        Field{"error_when_full", &CreatePool::error_when_full},
        Field{"discards", &CreatePool::discards},
        Field{"tags", &CreatePool::tags},
        Field{"data_on", &CreatePool::data_on},
        Field{"metadata_on", &CreatePool::metadata_on},
        Field{"autoextend_threshold", &CreatePool::autoextend_threshold},
        Field{"autoextend_percent", &CreatePool::autoextend_percent},
    };
};

template <>
struct Fields<CreateSnapshot> {
    static constexpr std::tuple list{
        Field{"origin", &CreateSnapshot::origin},         Field{"name", &CreateSnapshot::name},
        Field{"read_only", &CreateSnapshot::read_only},   Field{"tags", &CreateSnapshot::tags},
        Field{"classic", &CreateSnapshot::classic},       Field{"size", &CreateSnapshot::size},
        Field{"chunk_size", &CreateSnapshot::chunk_size},
    };
};

template <>
struct Fields<ResizeVolume> {
    static constexpr std::tuple list{
        Field{"name", &ResizeVolume::name},
        Field{"size", &ResizeVolume::size},
        Field{"metadata", &ResizeVolume::metadata},
        Field{"shrink_allowed", &ResizeVolume::shrink_allowed},
    };
};

// Its `progress` is a matter of the request around it (control.h).
template <>
struct Fields<ChangeOptions> {
    static constexpr std::tuple list{
        Field{"dry_run", &ChangeOptions::dry_run},
    };
};

template <>
struct Fields<Progress> {
    static constexpr std::tuple list{
        Field{"done", &Progress::done},
        Field{"total", &Progress::total},
    };
};

template <>
struct Fields<VolumeInfo> {
    static constexpr std::tuple list{
        Field{"name", &VolumeInfo::name},
        Field{"id", &VolumeInfo::id},
        Field{"kind", &VolumeInfo::kind},
        Field{"segment_type", &VolumeInfo::segment_type},
        Field{"size", &VolumeInfo::size},
        Field{"visible", &VolumeInfo::visible},
        Field{"read_only", &VolumeInfo::read_only},
        Field{"skip_activation", &VolumeInfo::skip_activation},
        Field{"tags", &VolumeInfo::tags},
        Field{"creation_time", &VolumeInfo::creation_time},
        Field{"creation_host", &VolumeInfo::creation_host},
        Field{"age", &VolumeInfo::age},
        Field{"stripes", &VolumeInfo::stripes},
        Field{"stripe_size", &VolumeInfo::stripe_size},
        Field{"physical_volumes", &VolumeInfo::physical_volumes},
        Field{"pool", &VolumeInfo::pool},
        Field{"origin", &VolumeInfo::origin},
        Field{"former_origin", &VolumeInfo::former_origin},
        Field{"external_origin", &VolumeInfo::external_origin},
        Field{"origin_file", &VolumeInfo::origin_file},
        Field{"device_id", &VolumeInfo::device_id},
        Field{"mapped", &VolumeInfo::mapped},
        Field{"exclusive", &VolumeInfo::exclusive},
        Field{"transaction_id", &VolumeInfo::transaction_id},
        Field{"chunk_size", &VolumeInfo::chunk_size},
        Field{"data_used", &VolumeInfo::data_used},
        Field{"metadata_size", &VolumeInfo::metadata_size},
        Field{"metadata_used", &VolumeInfo::metadata_used},
        Field{"metadata_snapshot", &VolumeInfo::metadata_snapshot},
        Field{"discards", &VolumeInfo::discards},
        Field{"zero_new_blocks", &VolumeInfo::zero_new_blocks},
        Field{"error_when_full", &VolumeInfo::error_when_full},
        Field{"effective_discards", &VolumeInfo::effective_discards},
        Field{"pool_mode", &VolumeInfo::pool_mode},
        Field{"needs_check", &VolumeInfo::needs_check},
        Field{"store_size", &VolumeInfo::store_size},
        Field{"store_used", &VolumeInfo::store_used},
        Field{"store_metadata", &VolumeInfo::store_metadata},
        Field{"snapshot_state", &VolumeInfo::snapshot_state},
        Field{"state", &VolumeInfo::state},
        Field{"active", &VolumeInfo::active},
        Field{"monitored", &VolumeInfo::monitored},
        Field{"profile", &VolumeInfo::profile},
        Field{"open_count", &VolumeInfo::open_count},
        Field{"refused", &VolumeInfo::refused},
    };
};

template <>
struct Fields<PhysicalVolumeInfo> {
    static constexpr std::tuple list{
        Field{"name", &PhysicalVolumeInfo::name},
        Field{"id", &PhysicalVolumeInfo::id},
        Field{"device", &PhysicalVolumeInfo::device},
        Field{"size", &PhysicalVolumeInfo::size},
        Field{"allocated", &PhysicalVolumeInfo::allocated},
        Field{"extents", &PhysicalVolumeInfo::extents},
        Field{"missing", &PhysicalVolumeInfo::missing},
        Field{"duplicate", &PhysicalVolumeInfo::duplicate},
        Field{"device_hint", &PhysicalVolumeInfo::device_hint},
        Field{"tags", &PhysicalVolumeInfo::tags},
    };
};

template <>
struct Fields<GroupInfo> {
    static constexpr std::tuple list{
        Field{"name", &GroupInfo::name},
        Field{"id", &GroupInfo::id},
        Field{"sequence_number", &GroupInfo::sequence_number},
        Field{"extent_size", &GroupInfo::extent_size},
        Field{"size", &GroupInfo::size},
        Field{"free", &GroupInfo::free},
        Field{"system_id", &GroupInfo::system_id},
        Field{"lock_type", &GroupInfo::lock_type},
        Field{"tags", &GroupInfo::tags},
        Field{"physical_volumes", &GroupInfo::physical_volumes},
        Field{"findings", &GroupInfo::findings},
        Field{"recovered", &GroupInfo::recovered},
        Field{"writable", &GroupInfo::writable},
        Field{"served", &GroupInfo::served},
        Field{"capabilities", &GroupInfo::capabilities},
    };
};

template <>
struct Fields<ConvertToPool> {
    static constexpr std::tuple list{
        Field{"name", &ConvertToPool::name},
        Field{"metadata", &ConvertToPool::metadata},
        Field{"metadata_size", &ConvertToPool::metadata_size},
        Field{"chunk_size", &ConvertToPool::chunk_size},
        Field{"zero_new_blocks", &ConvertToPool::zero_new_blocks},
        Field{"error_when_full", &ConvertToPool::error_when_full},
        Field{"discards", &ConvertToPool::discards},
    };
};

template <>
struct Fields<SetActive> {
    static constexpr std::tuple list{
        Field{"names", &SetActive::names},
        Field{"active", &SetActive::active},
        Field{"ignore_skip", &SetActive::ignore_skip},
    };
};

template <>
struct Fields<PoolDependent> {
    static constexpr std::tuple list{
        Field{"name", &PoolDependent::name},       Field{"id", &PoolDependent::id},           Field{"device_id", &PoolDependent::device_id},
        Field{"foreign", &PoolDependent::foreign}, Field{"used_by", &PoolDependent::used_by},
    };
};

template <>
struct Fields<PoolCheck> {
    static constexpr std::tuple list{
        Field{"grade", &PoolCheck::grade},
        Field{"findings", &PoolCheck::findings},
        Field{"finding_count", &PoolCheck::finding_count},
        Field{"leaked_data_blocks", &PoolCheck::leaked_data_blocks},
        Field{"leaked_metadata_blocks", &PoolCheck::leaked_metadata_blocks},
    };
};

template <>
struct Fields<PoolContents> {
    static constexpr std::tuple list{
        Field{"transaction_id", &PoolContents::transaction_id},
        Field{"changing", &PoolContents::changing},
        Field{"device_ids", &PoolContents::device_ids},
        Field{"check", &PoolContents::check},
    };
};

template <>
struct Fields<ThinUsage> {
    static constexpr std::tuple list{
        Field{"device_id", &ThinUsage::device_id},
        Field{"mapped", &ThinUsage::mapped},
        Field{"exclusive", &ThinUsage::exclusive},
    };
};

template <>
struct Fields<PackedMetadata> {
    static constexpr std::tuple list{
        Field{"bytes", &PackedMetadata::bytes},
        Field{"transaction_id", &PackedMetadata::transaction_id},
        Field{"of_metadata_snapshot", &PackedMetadata::of_metadata_snapshot},
    };
};

// A field that somebody adds to a type and forgets here fails to build: the fields of an aggregate are counted by how many
// initialisers it takes.
struct Anything {
    template <typename T>
    operator T() const;
};

template <typename T, std::size_t... Each>
consteval bool takes(std::index_sequence<Each...>) {
    return requires { T{(void(Each), Anything{})...}; };
}

template <typename T>
constexpr std::size_t listed = std::tuple_size_v<decltype(Fields<T>::list)>;
template <typename... T>
constexpr bool all_fields_listed =
    ((takes<T>(std::make_index_sequence<listed<T>>()) && !takes<T>(std::make_index_sequence<listed<T> + 1>())) && ...);
static_assert(
    all_fields_listed<SizeRequest, CreateVolume, CreatePool, CreateSnapshot, ResizeVolume, Progress, VolumeInfo, PhysicalVolumeInfo,
                      GroupInfo, ConvertToPool, SetActive, PoolDependent, PoolCheck, PoolContents, ThinUsage, PackedMetadata>);

template <typename T>
struct Words;

template <>
struct Words<VolumeKind> {
    static constexpr std::array list{
        std::pair{VolumeKind::linear, "linear"},       std::pair{VolumeKind::striped, "striped"},
        std::pair{VolumeKind::thin_pool, "thin_pool"}, std::pair{VolumeKind::thin, "thin"},
        std::pair{VolumeKind::pool_data, "pool_data"}, std::pair{VolumeKind::pool_metadata, "pool_metadata"},
        std::pair{VolumeKind::spare, "spare"},         std::pair{VolumeKind::other, "other"},
        std::pair{VolumeKind::snapshot, "snapshot"},   std::pair{VolumeKind::file, "file"},
    };
};

template <>
struct Words<Capability> {
    static constexpr std::array list{
        std::pair{Capability::activation, "activation"},
        std::pair{Capability::automatic_extension, "automatic_extension"},
        std::pair{Capability::external_origins, "external_origins"},
        std::pair{Capability::origin_files, "origin_files"},
        std::pair{Capability::sets_in_use, "sets_in_use"},
        std::pair{Capability::smaller_pools, "smaller_pools"},
        std::pair{Capability::trim, "trim"},
    };
};

template <>
struct Words<SizeRequest::Base> {
    static constexpr std::array list{
        std::pair{SizeRequest::Base::bytes, "bytes"},
        std::pair{SizeRequest::Base::percent_of_group, "percent_of_group"},
        std::pair{SizeRequest::Base::percent_of_free, "percent_of_free"},
        std::pair{SizeRequest::Base::percent_of_physical_volumes, "percent_of_physical_volumes"},
        std::pair{SizeRequest::Base::percent_of_origin, "percent_of_origin"},
    };
};

template <>
struct Words<SizeRequest::Relation> {
    static constexpr std::array list{
        std::pair{SizeRequest::Relation::absolute, "absolute"},
        std::pair{SizeRequest::Relation::grow, "grow"},
        std::pair{SizeRequest::Relation::shrink, "shrink"},
    };
};

template <typename T>
concept Described = requires {
    Fields<T>::list;
};
template <typename T>
constexpr bool is_vector = false;
template <typename T>
constexpr bool is_vector<std::vector<T>> = true;
template <typename T>
constexpr bool is_optional = false;
template <typename T>
constexpr bool is_optional<std::optional<T>> = true;

// A group's text may hold bytes that aren't UTF-8; they become "?", as a listing has to go on.
std::string valid_utf8(const std::string& text) {
    std::string result;
    result.reserve(text.size());
    for (std::size_t i = 0; i < text.size();) {
        auto byte = static_cast<unsigned char>(text[i]);
        std::size_t length = byte < 0x80                   ? 1
                             : byte >= 0xc2 && byte < 0xe0 ? 2
                             : byte >= 0xe0 && byte < 0xf0 ? 3
                             : byte >= 0xf0 && byte < 0xf5 ? 4
                                                           : 0;
        bool valid = length > 0 && i + length <= text.size();
        for (std::size_t k = 1; valid && k < length; ++k)
            valid = (static_cast<unsigned char>(text[i + k]) & 0xc0) == 0x80;
        if (valid && length > 2) {
            auto second = static_cast<unsigned char>(text[i + 1]);
            valid = !(byte == 0xe0 && second < 0xa0) && !(byte == 0xed && second >= 0xa0) && !(byte == 0xf0 && second < 0x90) &&
                    !(byte == 0xf4 && second >= 0x90);
        }
        if (valid) {
            result.append(text, i, length);
            i += length;
        } else {
            result += '?';
            ++i;
        }
    }
    return result;
}

template <typename T>
Json write(const T& value) {
    if constexpr (Described<T>) {
        Json json = Json::object();
        std::apply(
            [&](const auto&... field) { (json.get_ref<Json::object_t&>().emplace_back(field.name, write(value.*field.member)), ...); },
            Fields<T>::list);
        return json;
    } else if constexpr (is_vector<T>) {
        Json json = Json::array();
        for (const auto& item : value)
            json.push_back(write(item));
        return json;
    } else if constexpr (is_optional<T>) {
        return value ? write(*value) : Json();
    } else if constexpr (std::is_enum_v<T>) {
        for (const auto& [known, word] : Words<T>::list)
            if (known == value)
                return word;
        return Json();
    } else if constexpr (std::is_same_v<T, std::string>) {
        return valid_utf8(value);
    } else {
        return value;
    }
}

template <typename T>
Result<void> read(const Json& json, T& value, const std::string& place) {
    if constexpr (Described<T>) {
        if (!json.is_object())
            return fail(ErrorKind::usage, "{}: expected an object", place);
        Result<void> outcome;
        auto read_field = [&](const auto& field) {
            auto found = json.find(field.name);
            if (found != json.end())
                outcome = read(*found, value.*field.member, place + "." + field.name);
            return outcome.has_value();
        };
        std::apply([&](const auto&... field) { (read_field(field) && ...); }, Fields<T>::list);
        return outcome;
    } else if constexpr (is_vector<T>) {
        if (!json.is_array())
            return fail(ErrorKind::usage, "{}: expected an array", place);
        value.clear();
        value.reserve(json.size());
        for (const Json& item : json) {
            std::string item_place = fmt::format("{}[{}]", place, value.size());
            TRY(read(item, value.emplace_back(), item_place));
        }
        return {};
    } else if constexpr (is_optional<T>) {
        if (json.is_null()) {
            value.reset();
            return {};
        }
        return read(json, value.emplace(), place);
    } else if constexpr (std::is_enum_v<T>) {
        if (json.is_string())
            for (const auto& [known, word] : Words<T>::list)
                if (json.get_ref<const std::string&>() == word) {
                    value = known;
                    return {};
                }
        return fail(ErrorKind::usage, "{}: not a word that is known here", place);
    } else if constexpr (std::is_same_v<T, bool>) {
        if (!json.is_boolean())
            return fail(ErrorKind::usage, "{}: expected true or false", place);
        value = json.get<bool>();
        return {};
    } else if constexpr (std::is_same_v<T, std::string>) {
        if (!json.is_string())
            return fail(ErrorKind::usage, "{}: expected a string", place);
        value = json.get_ref<const std::string&>();
        return {};
    } else {
        static_assert(std::is_integral_v<T>);
        bool fits = json.is_number_unsigned() ? std::in_range<T>(json.get<std::uint64_t>())
                                              : json.is_number_integer() && std::in_range<T>(json.get<std::int64_t>());
        if (!fits)
            return fail(ErrorKind::usage, "{}: expected a whole number of {} bits", place, sizeof(T) * 8);
        value = json.get<T>();
        return {};
    }
}

constexpr std::size_t max_depth = 16;
constexpr std::size_t max_members = 256;

constexpr std::array error_kinds{ErrorKind::failed,  ErrorKind::usage,   ErrorKind::not_found, ErrorKind::exists,
                                 ErrorKind::refused, ErrorKind::damaged, ErrorKind::no_space,  ErrorKind::unsupported};

Result<std::string> print(const Json& json, int indent) {
    try {
        return json.dump(indent);
    } catch (const Json::exception& error) {
        return fail(ErrorKind::failed, "cannot be written as JSON: {}", error.what());
    }
}

}  // namespace

template <typename T>
Json to_json(const T& value) {
    return write(value);
}

template <typename T>
Result<T> from_json(const Json& json, std::string_view place) {
    T value{};
    TRY(read(json, value, std::string(place)));
    return value;
}

template <typename T>
Result<T> member(const Json& object, std::string_view key, std::string_view place) {
    if (!object.is_object())
        return fail(ErrorKind::usage, "{}: expected an object", place);
    auto found = object.find(key);
    if (found == object.end())
        return fail(ErrorKind::usage, "{}.{}: missing", place, key);
    return from_json<T>(*found, fmt::format("{}.{}", place, key));
}

#define LAMELLA_JSON_TYPE(...)                                             \
    template Json to_json<__VA_ARGS__>(const __VA_ARGS__&);                \
    template Result<__VA_ARGS__> from_json(const Json&, std::string_view); \
    template Result<__VA_ARGS__> member(const Json&, std::string_view, std::string_view);

LAMELLA_JSON_TYPE(bool)
LAMELLA_JSON_TYPE(std::uint64_t)
LAMELLA_JSON_TYPE(std::string)
LAMELLA_JSON_TYPE(std::vector<std::string>)
LAMELLA_JSON_TYPE(SizeRequest)
LAMELLA_JSON_TYPE(CreateVolume)
LAMELLA_JSON_TYPE(CreatePool)
LAMELLA_JSON_TYPE(CreateSnapshot)
LAMELLA_JSON_TYPE(std::vector<CreateSnapshot>)
LAMELLA_JSON_TYPE(ResizeVolume)
LAMELLA_JSON_TYPE(ConvertToPool)
LAMELLA_JSON_TYPE(SetActive)
LAMELLA_JSON_TYPE(ChangeOptions)
LAMELLA_JSON_TYPE(Progress)
LAMELLA_JSON_TYPE(VolumeInfo)
LAMELLA_JSON_TYPE(std::vector<VolumeInfo>)
LAMELLA_JSON_TYPE(GroupInfo)
LAMELLA_JSON_TYPE(std::vector<PhysicalVolumeInfo>)
LAMELLA_JSON_TYPE(std::vector<PoolDependent>)
LAMELLA_JSON_TYPE(PoolContents)
LAMELLA_JSON_TYPE(std::vector<ThinUsage>)
LAMELLA_JSON_TYPE(PackedMetadata)

Json error_to_json(const Error& error) {
    Json json = Json::object();
    json["kind"] = std::string(to_string(error.kind()));
    json["message"] = valid_utf8(error.message());
    json["errno"] = error.error_number();
    return json;
}

Error error_from_json(const Json& json) {
    Result<std::string> message = member<std::string>(json, "message", "error");
    Result<std::string> word = member<std::string>(json, "kind", "error");
    if (!message || !word)
        return Error(ErrorKind::failed, "the answer is an error that cannot be understood");
    Result<std::uint64_t> number = member<std::uint64_t>(json, "errno", "error");
    int error_number = number && *number < 4096 ? static_cast<int>(*number) : 0;
    for (ErrorKind kind : error_kinds)
        if (to_string(kind) == *word)
            return Error(kind, *std::move(message), error_number);
    return Error(ErrorKind::failed, *std::move(message), error_number);
}

Result<Json> parse_json(std::string_view text) {
    // Objects keep their members in order, and look for one along the list: without a limit, many members would take for ever.
    struct TooBig {};
    std::array<std::size_t, max_depth + 1> members{};  // of the object at each depth
    auto limit = [&](int depth, Json::parse_event_t event, Json&) {
        auto at = static_cast<std::size_t>(depth);
        if (event == Json::parse_event_t::object_start || event == Json::parse_event_t::array_start) {
            if (at >= max_depth)
                throw TooBig();
            members[at + 1] = 0;
        } else if (event == Json::parse_event_t::key && ++members[at] > max_members) {
            throw TooBig();
        }
        return true;
    };
    try {
        return Json::parse(text, limit);
    } catch (const TooBig&) {
        return fail(ErrorKind::usage, "JSON nests deeper than {} or has an object of more than {} members", max_depth, max_members);
    } catch (const Json::exception& error) {
        return fail(ErrorKind::usage, "not JSON: {}", valid_utf8(error.what()));
    }
}

Result<std::string> print_json(const Json& json) { return print(json, -1); }

Result<std::string> print_json_indented(const Json& json) { return TRY(print(json, 2)) + "\n"; }

}  // namespace lamella
