//! Converts an older, flat configuration file into the present form.
//!
//! Older files have settings as single keys: with dots, in camel, kebab or snake case, or named like
//! variables and flags. A key is taken if exactly one setting fits it. Every decision is listed, and
//! secrets are never copied.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    Environment, Flags, LoadError, Origin, Problem, ProblemKind, document, parse, read_text,
    setting::Declared, settings::SECTIONS,
};

/// Keys of drafts that moved. The others of today are found by their names.
const MOVED: [(&str, &str); 7] = [
    ("auth.role", "auth.jwt.role"),
    ("auth.mountPath", "auth.jwt.mountPath"),
    ("auth.jwtFile", "auth.jwt.jwtFile"),
    ("auth.source", "auth.jwt.source"),
    ("auth.expectedIssuer", "auth.jwt.expectedIssuer"),
    ("auth.expectedAudience", "auth.jwt.expectedAudience"),
    ("auth.expectedSubject", "auth.jwt.expectedSubject"),
];

/// Keys of drafts without a successor.
const DROPPED: [(&str, &str); 6] = [
    (
        "adminAddress",
        "server.metricsAddress and server.healthAddress took its place, and have defaults",
    ),
    ("unsafeDebugEndpoints", "there are no debug endpoints"),
    ("useAssociatedData", "associated data is always in use"),
    ("tokenStorage", "tokens stay in memory"),
    ("redactOpenBaoPaths", "paths of OpenBao are never logged"),
    ("performance", "its settings are fixed"),
];

/// Names of secrets, with the setting for their file.
const SECRETS: [(&str, &str); 8] = [
    ("token", "auth.token.file"),
    ("vaultToken", "auth.token.file"),
    ("baoToken", "auth.token.file"),
    ("jwt", "auth.jwt.jwtFile"),
    ("secretId", "auth.approle.secretIdFile"),
    ("clientSecret", "auth.jwt.oauth2.clientSecretFile"),
    ("password", "auth.userpass.passwordFile"),
    ("pin", "auth.cert.pkcs11.pinFile"),
];

/// Prefixes of variables.
const PREFIXES: [&str; 3] = ["baokmsprovider", "baokms", "openbaokms"];

/// What became of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Decision {
    /// The key in the old file.
    pub key: String,
    pub line: u64,
    pub outcome: Taken,
    /// The setting in the new file, or the one to use for a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub setting: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// Under the same path.
    Kept,
    /// Under another name.
    Renamed,
    /// Without a successor.
    Dropped,
    /// A secret: it belongs in a file of its own.
    Secret,
}

impl Taken {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Renamed => "renamed",
            Self::Dropped => "dropped",
            Self::Secret => "secret",
        }
    }
}

/// The new file, and what became of each key of the old one.
#[derive(Debug)]
pub struct Migrated {
    pub text: String,
    /// In the order of the old file.
    pub decisions: Vec<Decision>,
    /// Warnings about the new file.
    pub warnings: Vec<Problem>,
}

/// A value for the new file.
struct Moved<'o> {
    value: Value,
    comments: Vec<&'o str>,
}

/// Converts a file.
///
/// # Errors
/// As [`migrate`], also for an unreadable file.
pub fn migrate_file(path: &Path, environment: &Environment) -> Result<Migrated, LoadError> {
    // Variables of this process replace settings of a provider, not those of the new file.
    let kept = |(name, _): &(&String, &String)| *name == "XDG_RUNTIME_DIR";
    let variables = environment.variables.iter().filter(kept);
    let environment = Environment {
        variables: variables
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        effective_uid: environment.effective_uid,
    };
    migrate(&read_text(path)?, path.to_owned(), &environment)
}

/// Converts the text of the file at `path`, which is only for messages.
///
/// # Errors
/// [`LoadError`] with every key that fits no setting, or with every problem of the new file.
pub fn migrate(
    text: &str,
    path: PathBuf,
    environment: &Environment,
) -> Result<Migrated, LoadError> {
    let entries = match document::flat(text) {
        Ok(entries) => entries,
        Err(reason) => return Err(LoadError::Malformed { path, reason }),
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut moved: BTreeMap<&'static str, Moved<'_>> = BTreeMap::new();
    let mut decisions = Vec::new();
    let mut problems = Vec::new();

    for document::Flat { key, value, line } in entries {
        let decision = |outcome, setting, reason| Decision {
            key: key.clone(),
            line,
            outcome,
            setting,
            reason,
        };
        if let Some((_, setting)) = SECRETS.iter().find(|(name, _)| is_named(&key, name)) {
            let reason = "a secret is not copied: put it into a file";
            decisions.push(decision(Taken::Secret, Some(*setting), Some(reason)));
            continue;
        }
        if let Some((_, reason)) = DROPPED.iter().find(|(name, _)| is_below(&key, name)) {
            if is_named(&key, "useAssociatedData") && value == Value::Bool(false) {
                let rule = "is false: objects without associated data cannot be read";
                problems.push(problem(&key, line, rule, None));
            } else {
                decisions.push(decision(Taken::Dropped, None, Some(*reason)));
            }
            continue;
        }
        let setting = match fitting(&key)[..] {
            [setting] => setting,
            [] => {
                let rule = "is no setting, under no spelling";
                problems.push(problem(&key, line, rule, near(&key)));
                continue;
            }
            ref several => {
                let all: Vec<_> = several.iter().map(|it| it.path).collect();
                let hint = format!("did you mean {}?", all.join(" or "));
                problems.push(problem(&key, line, "fits several settings", Some(hint)));
                continue;
            }
        };
        if moved.contains_key(setting.path) {
            let rule = format!("gives {} a second value", setting.path);
            problems.push(problem(
                &key,
                line,
                &rule,
                Some("keep one of them".to_owned()),
            ));
            continue;
        }
        let outcome = match key == setting.path {
            true => Taken::Kept,
            false => Taken::Renamed,
        };
        decisions.push(decision(outcome, Some(setting.path), None));
        let value = Moved {
            value: typed(value, setting),
            comments: comments_above(&lines, line),
        };
        moved.insert(setting.path, value);
    }

    if !problems.is_empty() {
        return Err(LoadError::Invalid { path, problems });
    }
    let text = written(&moved);
    let loaded = parse(&text, path, &Flags::default(), environment)?;
    Ok(Migrated {
        text,
        decisions,
        warnings: loaded.warnings,
    })
}

/// Letters and digits alone, in lower case.
fn plain(key: &str) -> String {
    let kept = key.chars().filter(char::is_ascii_alphanumeric);
    kept.map(|c| c.to_ascii_lowercase()).collect()
}

/// The name without the prefix of a variable, if it has one.
fn spellings(key: &str) -> impl Iterator<Item = String> {
    let plain = plain(key);
    let stripped = PREFIXES
        .iter()
        .find_map(|prefix| plain.strip_prefix(prefix));
    let stripped = stripped.map(str::to_owned);
    [Some(plain), stripped].into_iter().flatten()
}

fn is_named(key: &str, name: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    let name = plain(name);
    spellings(last).chain(spellings(key)).any(|key| key == name)
}

/// Whether a part of the path has this name.
fn is_below(key: &str, name: &str) -> bool {
    let mut parts = key.split('.');
    parts.any(|part| is_named(part, name)) || is_named(key, name)
}

/// The settings that fit a key: by the path without punctuation, else by the last part of a path.
fn fitting(key: &str) -> Vec<&'static Declared> {
    let settings = || SECTIONS.iter().flat_map(|section| section.settings);
    let by_path = |path: &str| settings().find(|setting| setting.path == path);
    let moved = MOVED.iter().find(|(old, _)| {
        let old = plain(old);
        spellings(key).any(|key| key == old)
    });
    if let Some(setting) = moved.and_then(|(_, new)| by_path(new)) {
        return vec![setting];
    }
    let same = |text: fn(&Declared) -> &str| -> Vec<_> {
        let fits = |setting: &&Declared| {
            let name = plain(text(setting));
            spellings(key).any(|key| key == name)
        };
        settings().filter(fits).collect()
    };
    let whole = same(|setting| setting.path);
    match whole.is_empty() {
        // An old file knows nothing of readers of other providers.
        true => same(|setting| setting.path.rsplit('.').next().unwrap_or(setting.path))
            .into_iter()
            .filter(|setting| !setting.path.starts_with("legacy."))
            .collect(),
        false => whole,
    }
}

fn near(key: &str) -> Option<String> {
    let similarity = |setting: &Declared| {
        let of = |text: &str| strsim::jaro_winkler(&plain(text), &plain(key));
        let last = setting.path.rsplit('.').next().unwrap_or(setting.path);
        of(setting.path).max(of(last))
    };
    let settings = SECTIONS.iter().flat_map(|section| section.settings);
    let closest = settings.max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    (similarity(closest) > 0.85).then(|| format!("did you mean {}?", closest.path))
}

/// Variables are text; a boolean, an integer or a list is made of it where the setting is one.
fn typed(value: Value, setting: &Declared) -> Value {
    let expected = (setting.schema)();
    match (expected["type"].as_str(), &value) {
        (Some("boolean" | "integer"), Value::String(text)) => {
            serde_json::from_str(text.trim()).unwrap_or(value)
        }
        (Some("array"), Value::String(text)) => text
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .collect(),
        _ => value,
    }
}

/// The lines of comments directly above a line.
fn comments_above<'o>(lines: &[&'o str], line: u64) -> Vec<&'o str> {
    let before = usize::try_from(line)
        .unwrap_or(usize::MAX)
        .saturating_sub(1);
    let above = lines.iter().take(before).rev();
    let comments = above
        .map(|line| line.trim())
        .take_while(|line| line.starts_with('#'));
    // A setting that was commented out may be a secret.
    let comments = comments.filter(|comment| {
        let setting = comment.trim_start_matches('#').split([':', '=']).next();
        let named = |(name, _): &(&str, &str)| setting.is_some_and(|it| is_named(it.trim(), name));
        !SECRETS.iter().any(named)
    });
    let mut comments: Vec<_> = comments.collect();
    comments.reverse();
    comments
}

/// The settings as YAML, in the order of the reference page.
fn written(moved: &BTreeMap<&'static str, Moved<'_>>) -> String {
    let mut text = String::new();
    let has = |path: &str| moved.contains_key(path);
    if !has("configVersion") {
        text += "configVersion: v1alpha1\n";
    }
    let mut open: Vec<&str> = Vec::new();
    for setting in tree_order() {
        let Some(Moved { value, comments }) = moved.get(setting.path) else {
            continue;
        };
        let mut parts: Vec<&str> = setting.path.split('.').collect();
        let Some(key) = parts.pop() else { continue };
        let common = open.iter().zip(&parts).take_while(|(a, b)| a == b).count();
        for (depth, section) in parts.iter().enumerate().skip(common) {
            text += &format!("{}{section}:\n", "  ".repeat(depth));
        }
        let indent = "  ".repeat(parts.len());
        for comment in comments {
            text += &format!("{indent}{comment}\n");
        }
        text += &format!("{indent}{key}: {value}\n");
        open = parts;
    }
    text
}

/// All settings, with those of a section and its inner sections next to each other.
fn tree_order() -> Vec<&'static Declared> {
    let mut settings: Vec<_> = SECTIONS
        .iter()
        .flat_map(|section| section.settings)
        .collect();
    let first_of = |prefix: &str| {
        let mut all = SECTIONS.iter().flat_map(|section| section.settings);
        all.position(|setting| setting.path.starts_with(prefix))
    };
    settings.sort_by_cached_key(|setting| {
        let mut places = Vec::new();
        let mut prefix = String::new();
        let (sections, _) = setting.path.rsplit_once('.').unwrap_or(("", setting.path));
        for part in sections.split('.').filter(|part| !part.is_empty()) {
            prefix = format!("{prefix}{part}.");
            places.push(first_of(&prefix));
        }
        places.push(first_of(setting.path));
        places
    });
    settings
}

fn problem(key: &str, line: u64, rule: &str, hint: Option<String>) -> Problem {
    Problem {
        path: key.to_owned(),
        kind: ProblemKind::Shape,
        origin: Some(Origin::File { line, column: 1 }),
        value: None,
        rule: rule.to_owned(),
        hint,
    }
}
