// SPDX-License-Identifier: Apache-2.0
//
// Each type's fields are listed once, as pairs of name and member; reading and writing both walk that list, so that they can't
// come apart.
#include "volumes/json.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "volumes/unfinished.h"
#include "volumes/volume_group.h"

namespace lamella {

namespace {

template <typename T>
Json write(const T& value, bool brief);
// What it says of `json` goes behind its place.
template <typename T>
Result<void> read(const Json& json, T& value);
template <typename T>
bool is_absent(const T& value, const T& absent);

template <typename Owner>
struct Field {
    std::string_view name;
    // `absent`, if not null: nullopt where nothing else than in that stands in the owner, and the same for what is in its field.
    std::optional<Json> (*write)(const Owner& owner, const Owner* absent);
    Result<void> (*read)(const Json& json, Owner& owner);
};

template <typename Owner, typename Member>
Owner owner_of(Member Owner::*);

template <auto member>
constexpr auto field(std::string_view name) {
    using Owner = decltype(owner_of(member));
    return Field<Owner>{name,
                        [](const Owner& owner, const Owner* absent) -> std::optional<Json> {
                            if (absent && is_absent(owner.*member, absent->*member))
                                return std::nullopt;
                            return lamella::write(owner.*member, absent != nullptr);
                        },
                        [](const Json& json, Owner& owner) { return lamella::read(json, owner.*member); }};
}

template <typename T>
struct Fields;

template <>
struct Fields<SizeRequest> {
    static constexpr std::array list{
        field<&SizeRequest::base>("base"),
        field<&SizeRequest::relation>("relation"),
        field<&SizeRequest::value>("value"),
    };
};

template <>
struct Fields<CreateVolume> {
    static constexpr std::array list{
        field<&CreateVolume::name>("name"),
        field<&CreateVolume::size>("size"),
        field<&CreateVolume::pool>("pool"),
        field<&CreateVolume::linear>("linear"),
        field<&CreateVolume::stripes>("stripes"),
        field<&CreateVolume::stripe_size>("stripe_size"),
        field<&CreateVolume::external_origin>("external_origin"),
        field<&CreateVolume::origin_file>("origin_file"),
        field<&CreateVolume::tags>("tags"),
        field<&CreateVolume::read_only>("read_only"),
    };
};

template <>
struct Fields<CreatePool> {
    static constexpr std::array list{
        field<&CreatePool::name>("name"),
        field<&CreatePool::size>("size"),
        field<&CreatePool::chunk_size>("chunk_size"),
        field<&CreatePool::metadata_size>("metadata_size"),
        field<&CreatePool::stripes>("stripes"),
        field<&CreatePool::stripe_size>("stripe_size"),
        field<&CreatePool::zero_new_blocks>("zero_new_blocks"),
        field<&CreatePool::error_when_full>("error_when_full"),
        field<&CreatePool::discards>("discards"),
        field<&CreatePool::tags>("tags"),
        field<&CreatePool::data_on>("data_on"),
        field<&CreatePool::metadata_on>("metadata_on"),
        field<&CreatePool::autoextend_threshold>("autoextend_threshold"),
        field<&CreatePool::autoextend_percent>("autoextend_percent"),
    };
};

template <>
struct Fields<CreateSnapshot> {
    static constexpr std::array list{
        field<&CreateSnapshot::origin>("origin"),         field<&CreateSnapshot::name>("name"),
        field<&CreateSnapshot::read_only>("read_only"),   field<&CreateSnapshot::tags>("tags"),
        field<&CreateSnapshot::classic>("classic"),       field<&CreateSnapshot::size>("size"),
        field<&CreateSnapshot::chunk_size>("chunk_size"),
    };
};

template <>
struct Fields<ResizeVolume> {
    static constexpr std::array list{
        field<&ResizeVolume::name>("name"),
        field<&ResizeVolume::size>("size"),
        field<&ResizeVolume::metadata>("metadata"),
        field<&ResizeVolume::shrink_allowed>("shrink_allowed"),
    };
};

// Its `progress` is a matter of the request around it (control.h).
template <>
struct Fields<ChangeOptions> {
    static constexpr std::array list{
        field<&ChangeOptions::dry_run>("dry_run"),
    };
};

template <>
struct Fields<Progress> {
    static constexpr std::array list{
        field<&Progress::done>("done"),
        field<&Progress::total>("total"),
    };
};

template <>
struct Fields<VolumeInfo> {
    static constexpr std::array list{
        field<&VolumeInfo::name>("name"),
        field<&VolumeInfo::id>("id"),
        field<&VolumeInfo::kind>("kind"),
        field<&VolumeInfo::segment_type>("segment_type"),
        field<&VolumeInfo::size>("size"),
        field<&VolumeInfo::visible>("visible"),
        field<&VolumeInfo::read_only>("read_only"),
        field<&VolumeInfo::skip_activation>("skip_activation"),
        field<&VolumeInfo::tags>("tags"),
        field<&VolumeInfo::creation_time>("creation_time"),
        field<&VolumeInfo::creation_host>("creation_host"),
        field<&VolumeInfo::age>("age"),
        field<&VolumeInfo::stripes>("stripes"),
        field<&VolumeInfo::stripe_size>("stripe_size"),
        field<&VolumeInfo::physical_volumes>("physical_volumes"),
        field<&VolumeInfo::pool>("pool"),
        field<&VolumeInfo::origin>("origin"),
        field<&VolumeInfo::former_origin>("former_origin"),
        field<&VolumeInfo::external_origin>("external_origin"),
        field<&VolumeInfo::origin_file>("origin_file"),
        field<&VolumeInfo::device_id>("device_id"),
        field<&VolumeInfo::mapped>("mapped"),
        field<&VolumeInfo::exclusive>("exclusive"),
        field<&VolumeInfo::transaction_id>("transaction_id"),
        field<&VolumeInfo::chunk_size>("chunk_size"),
        field<&VolumeInfo::data_used>("data_used"),
        field<&VolumeInfo::metadata_size>("metadata_size"),
        field<&VolumeInfo::metadata_used>("metadata_used"),
        field<&VolumeInfo::metadata_snapshot>("metadata_snapshot"),
        field<&VolumeInfo::discards>("discards"),
        field<&VolumeInfo::zero_new_blocks>("zero_new_blocks"),
        field<&VolumeInfo::error_when_full>("error_when_full"),
        field<&VolumeInfo::effective_discards>("effective_discards"),
        field<&VolumeInfo::pool_mode>("pool_mode"),
        field<&VolumeInfo::needs_check>("needs_check"),
        field<&VolumeInfo::store_size>("store_size"),
        field<&VolumeInfo::store_used>("store_used"),
        field<&VolumeInfo::store_metadata>("store_metadata"),
        field<&VolumeInfo::snapshot_state>("snapshot_state"),
        field<&VolumeInfo::state>("state"),
        field<&VolumeInfo::active>("active"),
        field<&VolumeInfo::monitored>("monitored"),
        field<&VolumeInfo::profile>("profile"),
        field<&VolumeInfo::lock_held>("lock_held"),
        field<&VolumeInfo::open_count>("open_count"),
        field<&VolumeInfo::refused>("refused"),
    };
};

template <>
struct Fields<PhysicalVolumeInfo> {
    static constexpr std::array list{
        field<&PhysicalVolumeInfo::name>("name"),
        field<&PhysicalVolumeInfo::id>("id"),
        field<&PhysicalVolumeInfo::device>("device"),
        field<&PhysicalVolumeInfo::size>("size"),
        field<&PhysicalVolumeInfo::allocated>("allocated"),
        field<&PhysicalVolumeInfo::extents>("extents"),
        field<&PhysicalVolumeInfo::missing>("missing"),
        field<&PhysicalVolumeInfo::duplicate>("duplicate"),
        field<&PhysicalVolumeInfo::device_hint>("device_hint"),
        field<&PhysicalVolumeInfo::tags>("tags"),
    };
};

template <>
struct Fields<BrokenOff> {
    static constexpr std::array list{
        field<&BrokenOff::volume>("volume"),
        field<&BrokenOff::tag>("tag"),
    };
};

template <>
struct Fields<RecordedVolume> {
    static constexpr std::array list{
        field<&RecordedVolume::name>("name"),
        field<&RecordedVolume::id>("id"),
        field<&RecordedVolume::tags>("tags"),
    };
};

template <>
struct Fields<ChangeRecord> {
    static constexpr std::array list{
        field<&ChangeRecord::kind>("kind"),       field<&ChangeRecord::tag>("tag"),
        field<&ChangeRecord::pool>("pool"),       field<&ChangeRecord::pool_tags>("pool_tags"),
        field<&ChangeRecord::profile>("profile"), field<&ChangeRecord::sequence_number>("sequence_number"),
        field<&ChangeRecord::volumes>("volumes"), field<&ChangeRecord::undoing>("undoing"),
    };
};

template <>
struct Fields<GroupInfo> {
    static constexpr std::array list{
        field<&GroupInfo::name>("name"),
        field<&GroupInfo::id>("id"),
        field<&GroupInfo::sequence_number>("sequence_number"),
        field<&GroupInfo::extent_size>("extent_size"),
        field<&GroupInfo::size>("size"),
        field<&GroupInfo::free>("free"),
        field<&GroupInfo::system_id>("system_id"),
        field<&GroupInfo::lock_type>("lock_type"),
        field<&GroupInfo::tags>("tags"),
        field<&GroupInfo::physical_volumes>("physical_volumes"),
        field<&GroupInfo::findings>("findings"),
        field<&GroupInfo::recovered>("recovered"),
        field<&GroupInfo::broken_off>("broken_off"),
        field<&GroupInfo::writable>("writable"),
        field<&GroupInfo::served>("served"),
        field<&GroupInfo::capabilities>("capabilities"),
    };
};

template <>
struct Fields<ConvertToPool> {
    static constexpr std::array list{
        field<&ConvertToPool::name>("name"),
        field<&ConvertToPool::metadata>("metadata"),
        field<&ConvertToPool::metadata_size>("metadata_size"),
        field<&ConvertToPool::chunk_size>("chunk_size"),
        field<&ConvertToPool::zero_new_blocks>("zero_new_blocks"),
        field<&ConvertToPool::error_when_full>("error_when_full"),
        field<&ConvertToPool::discards>("discards"),
        field<&ConvertToPool::autoextend_threshold>("autoextend_threshold"),
        field<&ConvertToPool::autoextend_percent>("autoextend_percent"),
    };
};

template <>
struct Fields<ChangePool> {
    static constexpr std::array list{
        field<&ChangePool::name>("name"),
        field<&ChangePool::discards>("discards"),
        field<&ChangePool::error_when_full>("error_when_full"),
        field<&ChangePool::autoextend_threshold>("autoextend_threshold"),
        field<&ChangePool::autoextend_percent>("autoextend_percent"),
        field<&ChangePool::profile>("profile"),
    };
};

template <>
struct Fields<AutomaticExtension> {
    static constexpr std::array list{
        field<&AutomaticExtension::threshold>("threshold"),
        field<&AutomaticExtension::percent>("percent"),
    };
};

template <>
struct Fields<SetActive> {
    static constexpr std::array list{
        field<&SetActive::names>("names"),
        field<&SetActive::active>("active"),
        field<&SetActive::ignore_skip>("ignore_skip"),
        field<&SetActive::with_contents>("with_contents"),
    };
};

template <>
struct Fields<PoolDependent> {
    static constexpr std::array list{
        field<&PoolDependent::name>("name"),       field<&PoolDependent::id>("id"),           field<&PoolDependent::device_id>("device_id"),
        field<&PoolDependent::foreign>("foreign"), field<&PoolDependent::used_by>("used_by"),
    };
};

template <>
struct Fields<PoolCheck> {
    static constexpr std::array list{
        field<&PoolCheck::grade>("grade"),
        field<&PoolCheck::findings>("findings"),
        field<&PoolCheck::finding_count>("finding_count"),
        field<&PoolCheck::leaked_data_blocks>("leaked_data_blocks"),
        field<&PoolCheck::leaked_metadata_blocks>("leaked_metadata_blocks"),
    };
};

template <>
struct Fields<PoolContents> {
    static constexpr std::array list{
        field<&PoolContents::transaction_id>("transaction_id"),
        field<&PoolContents::changing>("changing"),
        field<&PoolContents::device_ids>("device_ids"),
        field<&PoolContents::needs_check>("needs_check"),
        field<&PoolContents::check>("check"),
    };
};

template <>
struct Fields<ThinUsage> {
    static constexpr std::array list{
        field<&ThinUsage::device_id>("device_id"),
        field<&ThinUsage::mapped>("mapped"),
        field<&ThinUsage::exclusive>("exclusive"),
    };
};

template <>
struct Fields<PackedMetadata> {
    static constexpr std::array list{
        field<&PackedMetadata::bytes>("bytes"),
        field<&PackedMetadata::transaction_id>("transaction_id"),
        field<&PackedMetadata::of_metadata_snapshot>("of_metadata_snapshot"),
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
constexpr std::size_t listed = Fields<T>::list.size();
template <typename... T>
constexpr bool all_fields_listed =
    ((takes<T>(std::make_index_sequence<listed<T>>()) && !takes<T>(std::make_index_sequence<listed<T> + 1>())) && ...);
static_assert(all_fields_listed<SizeRequest, CreateVolume, CreatePool, CreateSnapshot, ResizeVolume, Progress, VolumeInfo,
                                PhysicalVolumeInfo, GroupInfo, ConvertToPool, ChangePool, AutomaticExtension, SetActive, PoolDependent,
                                PoolCheck, PoolContents, ThinUsage, PackedMetadata, BrokenOff, RecordedVolume, ChangeRecord>);

template <typename T>
struct Words;

template <>
struct Words<ChangeRecord::Kind> {
    using Kind = ChangeRecord::Kind;
    static constexpr std::array list{
        std::pair{Kind::snapshots, "snapshots"}, std::pair{Kind::parts, "parts"},           std::pair{Kind::metadata, "metadata"},
        std::pair{Kind::pool, "pool"},           std::pair{Kind::conversion, "conversion"}, std::pair{Kind::settings, "settings"},
        std::pair{Kind::rollback, "rollback"},   std::pair{Kind::removal, "removal"},
    };
};

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
    if (std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
        return text;
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
bool is_absent(const T& value, const T& absent) {
    if constexpr (Described<T>)
        return false;
    else if constexpr (is_vector<T>)
        return value.empty() && absent.empty();
    else if constexpr (is_optional<T>)
        return !value && !absent;
    else
        return value == absent;
}

template <typename T>
Json write(const T& value, bool brief) {
    if constexpr (Described<T>) {
        static const T absent{};
        Json json = Json::object();
        auto& members = json.get_ref<Json::object_t&>();
        if (!brief)
            members.reserve(Fields<T>::list.size());
        for (const auto& field : Fields<T>::list)
            if (std::optional<Json> content = field.write(value, brief ? &absent : nullptr))
                members.emplace_back(field.name, *std::move(content));
        return json;
    } else if constexpr (is_vector<T>) {
        Json json = Json::array();
        json.get_ref<Json::array_t&>().reserve(value.size());
        for (const auto& item : value)
            json.push_back(write(item, brief));
        return json;
    } else if constexpr (is_optional<T>) {
        return value ? write(*value, brief) : Json();
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

std::unexpected<Error> behind(const std::string& place, const Error& error) {
    return std::unexpected(Error(error.kind(), place + error.message(), error.error_number()));
}

template <typename T>
Result<void> read(const Json& json, T& value) {
    if constexpr (Described<T>) {
        if (!json.is_object())
            return fail(ErrorKind::usage, ": expected an object");
        constexpr const auto& list = Fields<T>::list;
        std::size_t next = 0;  // where it is if the members come in the order of the list
        for (const auto& [name, content] : json.get_ref<const Json::object_t&>())
            for (std::size_t i = 0; i < list.size(); ++i) {
                const auto& field = list[(next + i) % list.size()];
                if (field.name != name)
                    continue;
                if (Result<void> outcome = field.read(content, value); !outcome)
                    return behind("." + name, outcome.error());
                next += i + 1;
                break;
            }
        return {};
    } else if constexpr (is_vector<T>) {
        if (!json.is_array())
            return fail(ErrorKind::usage, ": expected an array");
        value.clear();
        value.reserve(json.size());
        for (const Json& item : json)
            if (Result<void> outcome = read(item, value.emplace_back()); !outcome)
                return behind(fmt::format("[{}]", value.size() - 1), outcome.error());
        return {};
    } else if constexpr (is_optional<T>) {
        if (json.is_null()) {
            value.reset();
            return {};
        }
        return read(json, value.emplace());
    } else if constexpr (std::is_enum_v<T>) {
        if (json.is_string())
            for (const auto& [known, word] : Words<T>::list)
                if (json.get_ref<const std::string&>() == word) {
                    value = known;
                    return {};
                }
        return fail(ErrorKind::usage, ": not a word that is known here");
    } else if constexpr (std::is_same_v<T, bool>) {
        if (!json.is_boolean())
            return fail(ErrorKind::usage, ": expected true or false");
        value = json.get<bool>();
        return {};
    } else if constexpr (std::is_same_v<T, std::string>) {
        if (!json.is_string())
            return fail(ErrorKind::usage, ": expected a string");
        value = json.get_ref<const std::string&>();
        return {};
    } else {
        static_assert(std::is_integral_v<T>);
        bool fits = json.is_number_unsigned() ? std::in_range<T>(json.get<std::uint64_t>())
                                              : json.is_number_integer() && std::in_range<T>(json.get<std::int64_t>());
        if (!fits)
            return fail(ErrorKind::usage, ": expected a whole number of {} bits", sizeof(T) * 8);
        value = json.get<T>();
        return {};
    }
}

constexpr std::size_t max_depth = 16;
constexpr std::size_t max_members = 256;

// Objects keep their members in order, and look for one along the list: without a limit, many members would take for ever. What isn't JSON
// may pass: what it has up to the fault, where the parser ends, is counted as the parser would.
bool within_limits(std::string_view text) {
    std::array<std::size_t, max_depth + 1> members{};  // of the object at each depth
    std::size_t depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        switch (text[i]) {
        case '"': in_string = !in_string; break;
        case '\\': i += in_string; break;
        case '{':
        case '[':
            if (in_string)
                break;
            if (depth == max_depth)
                return false;
            members[++depth] = 0;
            break;
        case '}':
        case ']':
            if (!in_string && depth > 0)
                --depth;
            break;
        case ':':
            if (!in_string && ++members[depth] > max_members)
                return false;
            break;
        default: break;
        }
    }
    return true;
}

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
    return write(value, false);
}

template <typename T>
Json to_json_brief(const T& value) {
    return write(value, true);
}

template <typename T>
Result<T> from_json(const Json& json, std::string_view place) {
    T value{};
    if (Result<void> outcome = read(json, value); !outcome)
        return behind(std::string(place), outcome.error());
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
LAMELLA_JSON_TYPE(ChangePool)
LAMELLA_JSON_TYPE(AutomaticExtension)
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
LAMELLA_JSON_TYPE(ChangeRecord)

template Json to_json_brief(const std::vector<VolumeInfo>&);

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
    if (!within_limits(text))
        return fail(ErrorKind::usage, "JSON nests deeper than {} or has an object of more than {} members", max_depth, max_members);
    try {
        return Json::parse(text);
    } catch (const Json::exception& error) {
        return fail(ErrorKind::usage, "not JSON: {}", valid_utf8(error.what()));
    }
}

Result<std::string> print_json(const Json& json) { return print(json, -1); }

Result<std::string> print_json_indented(const Json& json) { return TRY(print(json, 2)) + "\n"; }

}  // namespace lamella
