//! The types that kube-apiserver stores, as a gzip of a `FileDescriptorSet`, from the `.proto` files
//! and the Go sources of the modules that `tests/control-plane` pins.
//!
//! Only the `.proto` files know the fields, and only the tags of the Go sources know their JSON. So
//! the descriptors say it in members of their own: `json_name` is empty for an inlined message,
//! `proto3_optional` marks a Go pointer, and the label `required` a field that JSON has although it
//! is empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use flate2::{Compression, GzBuilder};
use protox::prost_reflect::{
    prost::Message as _,
    prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
        MessageOptions,
        field_descriptor_proto::{Label, Type},
    },
};

/// Modules, and of each the groups of stored objects: all their versions are read.
const MODULES: [(&str, &[&str]); 4] = [
    (
        "k8s.io/api",
        &[
            "admissionregistration",
            "apps",
            "autoscaling",
            "batch",
            "certificates",
            "coordination",
            "core",
            "discovery",
            "events",
            "flowcontrol",
            "networking",
            "node",
            "policy",
            "rbac",
            "resource",
            "scheduling",
            "storage",
            "storagemigration",
        ],
    ),
    ("k8s.io/apimachinery", &[]),
    (
        "k8s.io/apiextensions-apiserver",
        &["pkg/apis/apiextensions"],
    ),
    ("k8s.io/kube-aggregator", &["pkg/apis/apiregistration"]),
];

/// The envelope around each stored object.
const ENVELOPE: &str = ".k8s.io.apimachinery.pkg.runtime.Unknown";
const OBJECT_META: &str = ".k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Messages with a JSON form of their own, by their last name. Code converts them.
const SPECIAL: [&str; 15] = [
    "Duration",
    "ExtraValue",
    "FieldsV1",
    "IntOrString",
    "JSON",
    "JSONSchemaPropsOrArray",
    "JSONSchemaPropsOrBool",
    "JSONSchemaPropsOrStringArray",
    "MicroTime",
    "Quantity",
    "RawExtension",
    "Time",
    "TypeMeta",
    "Unknown",
    "Verbs",
];

/// The JSON of a field, from its tag.
struct Tag {
    json_name: String,
    is_pointer: bool,
    omits_empty: bool,
    omits_zero: bool,
}

/// Tags by Go package, struct and name in the `.proto` file.
type Tags = BTreeMap<(String, String, String), Tag>;

/// `None` without Go.
pub(crate) fn generate(workspace: &Path, out: &Path) -> Result<Option<Vec<u8>>, Box<dyn Error>> {
    let include = out.join("include");
    if include.exists() {
        fs::remove_dir_all(&include)?;
    }
    fs::create_dir_all(include.join("k8s.io"))?;

    let mut roots = Vec::new();
    for (module, groups) in MODULES {
        let Some(directory) = module_directory(workspace, module)? else {
            return Ok(None);
        };
        symlink(&directory, include.join(module))?;
        for group in groups {
            for version in sorted(&directory.join(group))? {
                let file = format!("{module}/{group}/{version}/generated.proto");
                if include.join(&file).exists() {
                    roots.push(file);
                }
            }
        }
    }
    roots.push("k8s.io/apimachinery/pkg/runtime/generated.proto".to_owned());

    let mut set = protox::compile(&roots, [&include])?;
    keep_reachable(&mut set);
    let mut tags = Tags::new();
    for file in &set.file {
        read_tags(&include, package_of(file), &mut tags)?;
    }
    for file in &mut set.file {
        let package = package_of(file).to_owned();
        trim(file, &package, &tags)?;
    }
    set.file.retain(|file| !file.message_type.is_empty());

    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(&set.encode_to_vec())?;
    Ok(Some(gzip.finish()?))
}

/// The module in Go's cache, in the version of `tests/control-plane`.
fn module_directory(workspace: &Path, module: &str) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let go = |arguments: &[&str]| {
        Command::new("go")
            .args(arguments)
            .current_dir(workspace.join("tests/control-plane"))
            .env("GOWORK", "off")
            .output()
    };
    // The first run on a machine downloads it.
    let Ok(downloaded) = go(&["mod", "download", module]) else {
        return Ok(None);
    };
    let listed = go(&["list", "-m", "-f", "{{.Dir}}", module])?;
    let directory = String::from_utf8(listed.stdout)?.trim().to_owned();
    if directory.is_empty() {
        let said = String::from_utf8_lossy(&downloaded.stderr);
        return Err(format!("cannot download {module}: {said}").into());
    }
    Ok(Some(directory.into()))
}

/// Names in a directory, in an order that is the same everywhere.
fn sorted(directory: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The Go package of a file.
fn package_of(file: &FileDescriptorProto) -> &str {
    file.name().trim_end_matches("/generated.proto")
}

/// Drops the messages that no stored object contains.
fn keep_reachable(set: &mut FileDescriptorSet) {
    let mut contents: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut due: Vec<String> = vec![ENVELOPE.to_owned()];
    for file in &set.file {
        for message in &file.message_type {
            let name = format!(".{}.{}", file.package(), message.name());
            let nested = message.nested_type.iter().flat_map(|it| &it.field);
            let fields = message.field.iter().chain(nested);
            let types: BTreeSet<_> = fields.map(|field| field.type_name().to_owned()).collect();
            if types.contains(OBJECT_META) {
                due.push(name.clone());
            }
            contents.insert(name, types);
        }
    }
    let mut kept = BTreeSet::new();
    while let Some(name) = due.pop() {
        if let Some(types) = contents.get(&name)
            && kept.insert(name)
        {
            due.extend(types.iter().cloned());
        }
    }
    for file in &mut set.file {
        let package = file.package().to_owned();
        file.message_type
            .retain(|it| kept.contains(&format!(".{package}.{}", it.name())));
    }
}

/// Keeps the members that the decoder reads.
fn trim(file: &mut FileDescriptorProto, package: &str, tags: &Tags) -> Result<(), Box<dyn Error>> {
    let mut messages = Vec::new();
    for message in &file.message_type {
        let mut fields = Vec::new();
        for field in &message.field {
            fields.push(tagged(field, package, message.name(), tags)?);
        }
        let entries = message.nested_type.iter().map(|entry| DescriptorProto {
            name: entry.name.clone(),
            field: entry.field.iter().map(plain).collect(),
            options: Some(MessageOptions {
                map_entry: Some(true),
                ..MessageOptions::default()
            }),
            ..DescriptorProto::default()
        });
        messages.push(DescriptorProto {
            name: message.name.clone(),
            field: fields,
            nested_type: entries.collect(),
            ..DescriptorProto::default()
        });
    }
    *file = FileDescriptorProto {
        package: file.package.clone(),
        message_type: messages,
        ..FileDescriptorProto::default()
    };
    Ok(())
}

fn plain(field: &FieldDescriptorProto) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: field.name.clone(),
        number: field.number,
        label: field.label,
        r#type: field.r#type,
        type_name: field.type_name.clone(),
        ..FieldDescriptorProto::default()
    }
}

fn tagged(
    field: &FieldDescriptorProto,
    package: &str,
    message: &str,
    tags: &Tags,
) -> Result<FieldDescriptorProto, Box<dyn Error>> {
    let mut kept = plain(field);
    if SPECIAL.contains(&message) || message == "Timestamp" {
        return Ok(kept);
    }
    let of = |package: &str| {
        let key = (
            package.to_owned(),
            message.to_owned(),
            field.name().to_owned(),
        );
        tags.get(&key)
    };
    // A type of a version may be an alias of that in v1.
    let group = package.rsplit_once('/').map_or(package, |(group, _)| group);
    let Some(tag) = of(package).or_else(|| of(&format!("{group}/v1"))) else {
        return Err(format!("no Go tag of {} in {package}.{message}", field.name()).into());
    };
    if tag.json_name != field.name() {
        kept.json_name = Some(tag.json_name.clone());
    }
    // `omitempty` of Go keeps a struct; `omitzero` leaves an empty one out.
    let omits = match field.r#type() {
        Type::Message => tag.omits_zero,
        _ => tag.omits_empty || tag.omits_zero,
    };
    if tag.is_pointer {
        kept.proto3_optional = Some(true);
    } else if !omits && field.label() == Label::Optional {
        kept.set_label(Label::Required);
    }
    Ok(kept)
}

/// Reads the fields with a protobuf tag from the Go sources of a package.
fn read_tags(include: &Path, package: &str, tags: &mut Tags) -> Result<(), Box<dyn Error>> {
    let directory = include.join(package);
    for name in sorted(&directory)? {
        if !name.ends_with(".go") || name.contains("generated") || name.ends_with("_test.go") {
            continue;
        }
        let mut current = String::new();
        for line in fs::read_to_string(directory.join(name))?.lines() {
            if let Some(rest) = line.strip_prefix("type ") {
                current = rest.split(' ').next().unwrap_or_default().to_owned();
            }
            let parsed = line.split_once('`').and_then(|(go, tag)| {
                let words = part(tag, "protobuf:\"")?;
                let name = words.split(',').find_map(|it| it.strip_prefix("name="));
                let name = name.map_or_else(|| lower_first(go.trim()), str::to_owned);
                let json = part(tag, "json:\"")?;
                let (json_name, options) = json.split_once(',').unwrap_or((json, ""));
                let tag = Tag {
                    json_name: json_name.to_owned(),
                    is_pointer: go.split_whitespace().last()?.starts_with('*'),
                    omits_empty: options.contains("omitempty"),
                    omits_zero: options.contains("omitzero"),
                };
                Some((name, tag))
            });
            if let Some((name, tag)) = parsed {
                tags.insert((package.to_owned(), current.clone(), name), tag);
            }
        }
    }
    Ok(())
}

/// The name that protobuf gives to an embedded Go type.
fn lower_first(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|it| it.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// The text between `start` and the next quote.
fn part<'t>(text: &'t str, start: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once('"')?.0)
}
