//! One extraction: selects, opens and writes objects, all of them or none.

use std::{
    collections::HashSet,
    io::Write,
    path::{Path, PathBuf},
};

use etcd_snapshot::file::OnProgress;
use kms_cluster::api::Api;
use kms_domain::recovery::claims::VersionClaims;
use kms_node::{config::Config, report::one_line};
use kms_operator::recovery::{EtcdReading, EtcdSource};
use tokio::runtime;
use zeroize::Zeroizing;

use crate::{
    diff::{self, Live},
    error::ExtractError,
    local::LocalKeys,
    manifest::{Descriptors, Manifest, SecretText},
    open::{self, Opened},
    output::{self, OutputError, OutputFile},
    report::{Extract, Frame, ObjectRow, RefusedRow, Report, Written},
    select::{ObjectPath, Selection, Stored},
};

/// What to do with the selected objects.
pub enum Target<'a> {
    /// Show names, revisions and sizes.
    List,
    /// Compare the objects with those of a live cluster, by these kubeconfigs, and write nothing.
    Diff(&'a [PathBuf]),
    /// Write one file an object into a new or empty directory.
    Directory(PathBuf),
    /// Write one YAML stream, with the consent of the operator.
    Stream(&'a mut dyn Write),
}

/// Inputs of an extraction.
pub struct Extraction<'a> {
    /// Needed for objects of a KMS provider alone.
    pub config: Option<&'a Config>,
    pub source: &'a EtcdSource,
    pub selection: &'a Selection,
    /// Versions from the state of the node.
    pub claims: Vec<VersionClaims>,
    /// Keys of an `EncryptionConfiguration`, if one was given.
    pub keys: &'a LocalKeys,
    pub on_progress: OnProgress<'a>,
}

/// The content of a file.
enum Content {
    /// With the fields that it lacks.
    Yaml(SecretText, Vec<String>),
    /// The reason against YAML.
    Stored(Zeroizing<Vec<u8>>, String),
}

impl Extraction<'_> {
    /// Runs it, and returns its report.
    ///
    /// # Errors
    /// [`ExtractError`]; nothing was written.
    pub fn run(mut self, target: Target<'_>, frame: Frame<'_>) -> Result<Report, ExtractError> {
        if let Target::Directory(path) = &target {
            output::check(path)?;
        }
        let EtcdReading {
            gathered: objects,
            totals,
            trust,
            ..
        } = self.selection.read(self.source, self.on_progress)?;
        if objects.is_empty() {
            return Err(ExtractError::Nothing(self.source.name()));
        }
        let mut members = Extract {
            source: self.source.name(),
            revision: Some(self.selection.revision.unwrap_or(totals.revision)),
            objects: objects.iter().map(ObjectRow::of).collect(),
            ..Extract::default()
        };
        if matches!(target, Target::List) {
            return Ok(frame.listed(members, trust));
        }

        let claims = std::mem::take(&mut self.claims);
        let types = Descriptors::load().ok_or(ExtractError::Descriptors)?;
        let opened = open::open_all(self.config, &objects, claims, self.keys)?;
        let opened = objects.iter().zip(opened).map(|(object, opened)| {
            opened.and_then(|plaintext| open::require_own(&types, object, plaintext))
        });
        let opened: Vec<Opened> = opened.collect();
        let refused = objects.iter().zip(&opened).filter_map(|(object, opened)| {
            let refusal = opened.as_ref().err()?;
            Some(RefusedRow::of(object, refusal))
        });
        members.refused = refused.collect();
        let refusals: Vec<_> = opened.iter().filter_map(|it| it.as_ref().err()).collect();

        if let Target::Diff(kubeconfigs) = target {
            let found = compared(kubeconfigs, &types, &objects, &opened)?;
            for (row, live) in members.objects.iter_mut().zip(found) {
                row.live = Some(live);
            }
            return Ok(match refusals.is_empty() {
                true => frame.compared(members, trust),
                false => frame.refused(members, &refusals, trust),
            });
        }
        if !refusals.is_empty() {
            return Ok(frame.refused(members, &refusals, trust));
        }

        let contents = objects.iter().zip(opened).filter_map(|(object, opened)| {
            let plaintext = opened.ok()?;
            Some(Content::of(&types, object, plaintext))
        });
        let contents: Vec<Content> = contents.collect();
        let names = file_names(&objects, &contents);
        for ((row, name), content) in members.objects.iter_mut().zip(&names).zip(&contents) {
            row.written = Some(content.written(name));
        }
        match target {
            Target::List | Target::Diff(_) => {}
            Target::Directory(path) => {
                write(&path, &names, &contents)?;
                members.directory = Some(path.display().to_string());
            }
            Target::Stream(out) => stream(out, &objects, &contents)?,
        }
        Ok(frame.extracted(members, trust))
    }
}

impl Content {
    fn of(types: &Descriptors, object: &Stored, plaintext: Zeroizing<Vec<u8>>) -> Self {
        let yaml = Manifest::decode(types, &plaintext).and_then(|manifest| {
            let comment = format!("{} at etcd revision {}", object.path, object.revision);
            let unknown = manifest.unknown().iter().cloned().collect();
            Ok(Self::Yaml(manifest.yaml(&comment)?, unknown))
        });
        match yaml {
            Ok(yaml) => yaml,
            Err(error) => Self::Stored(plaintext, one_line(&error)),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Yaml(text, _) => text.as_bytes(),
            Self::Stored(bytes, _) => bytes,
        }
    }

    fn written(&self, file: &str) -> Written {
        let (undecoded, unknown) = match self {
            Self::Yaml(_, unknown) => (None, unknown.clone()),
            Self::Stored(_, reason) => (Some(reason.clone()), Vec::new()),
        };
        Written::of(file, self.bytes(), undecoded, unknown)
    }

    fn extension(&self) -> &'static str {
        match self {
            Self::Yaml(..) => "yaml",
            // `kubectl apply -f DIRECTORY` skips it.
            Self::Stored(..) => "stored",
        }
    }
}

/// The live object of each opened one.
fn compared(
    kubeconfigs: &[PathBuf],
    types: &Descriptors,
    objects: &[Stored],
    opened: &[Opened],
) -> Result<Vec<Live>, ExtractError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExtractError::Runtime)?;
    runtime.block_on(async {
        let api = Api::connect(kubeconfigs, None, None).await?;
        let mut found = Vec::new();
        for (object, opened) in objects.iter().zip(opened) {
            let plaintext = opened.as_deref().map_or(&[][..], Vec::as_slice);
            found.push(diff::compare(&api, types, &object.path, plaintext).await?);
        }
        Ok(found)
    })
}

fn write(path: &Path, names: &[String], contents: &[Content]) -> Result<(), OutputError> {
    let files: Vec<_> = names
        .iter()
        .zip(contents)
        .map(|(name, content)| OutputFile {
            name,
            content: content.bytes(),
        })
        .collect();
    output::write(path, &files)
}

/// The documents of a stream. Stored bytes have no place in it, and are refused before the first document.
fn stream(
    out: &mut dyn Write,
    objects: &[Stored],
    contents: &[Content],
) -> Result<(), ExtractError> {
    for (object, content) in objects.iter().zip(contents) {
        if let Content::Stored(_, reason) = content {
            return Err(ExtractError::NotYaml(
                object.path.to_string(),
                reason.clone(),
            ));
        }
    }
    for content in contents {
        out.write_all(b"---\n")?;
        out.write_all(content.bytes())?;
    }
    Ok(out.flush()?)
}

/// A name of its own for each file.
fn file_names(objects: &[Stored], contents: &[Content]) -> Vec<String> {
    let mut taken = HashSet::new();
    let names = objects.iter().zip(contents).map(|(object, content)| {
        let base = base_name(&object.path);
        let mut name = format!("{base}.{}", content.extension());
        let mut number = 1_u64;
        // Long names are cut, and file systems may ignore the case.
        while !taken.insert(name.to_lowercase()) {
            number = number.saturating_add(1);
            name = format!("{base}-{number}.{}", content.extension());
        }
        name
    });
    names.collect()
}

/// Limit of a file name without its end, in bytes. File systems take 255.
const MAX_NAME: usize = 200;

/// Resources that others need: `kubectl` creates the files of a directory in the order of their names.
const FIRST: [&str; 2] = [
    "customresourcedefinitions.apiextensions.k8s.io",
    "namespaces",
];

/// `RESOURCE_NAMESPACE_NAME`, in letters that every file system and shell takes.
fn base_name(path: &ObjectPath) -> String {
    let parts = [
        Some(&path.resource),
        path.namespace.as_ref(),
        Some(&path.name),
    ];
    let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
    let first = if FIRST.contains(&path.resource.as_str()) {
        "0_"
    } else {
        ""
    };
    let text = format!("{first}{}", parts.join("_"));
    let letters = text.chars().map(|letter| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' | '_' => letter,
        _ => '-',
    });
    letters.take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(name: &str) -> Stored {
        Stored {
            key: Vec::new(),
            path: ObjectPath {
                resource: "roles".to_owned(),
                namespace: Some("shop".to_owned()),
                name: name.to_owned(),
            },
            revision: 1,
            value: Zeroizing::default(),
        }
    }

    #[test]
    fn every_object_has_a_file_name_of_its_own() {
        let long = "x".repeat(300);
        let objects = ["system:a", "system-a", "System-A", "../b", &long].map(stored);
        let contents: Vec<_> = objects
            .iter()
            .map(|_| Content::Yaml(SecretText::default(), Vec::new()))
            .collect();
        let names = file_names(&objects, &contents);
        assert_eq!(
            names[..4],
            [
                "roles_shop_system-a.yaml",
                "roles_shop_system-a-2.yaml",
                "roles_shop_System-A-3.yaml",
                "roles_shop_..-b.yaml"
            ]
        );
        assert_eq!(names[4].len(), 205);
    }
}
