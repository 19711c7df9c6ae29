//! One corpus of configuration files for the loader and the schema.
//!
//! Every file of `config/bad` names in its first lines what must be reported, all of it; the line
//! `# schema: accepts` marks rules that JSON Schema cannot express.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use kms_node::config::{
    Environment, Flags, LoadError, Loaded, Origin, Problem, load, parse, reference_rows, schema,
};
use serde_json::Value;

#[test]
fn every_good_file_loads_and_fits_the_schema() {
    for path in corpus("good") {
        let loaded = load_file(&path).unwrap_or_else(|error| panic!("{path:?}: {error:?}"));
        assert_eq!(loaded.warnings, [], "{path:?}");
        let errors = schema_errors(&path);
        assert!(errors.is_empty(), "{path:?}: {errors:#?}");
    }
}

#[test]
fn every_bad_file_is_reported_in_full() {
    for path in corpus("bad") {
        let found: Vec<String> = match load_file(&path) {
            Ok(_) => panic!("{path:?} loads"),
            Err(LoadError::Invalid { problems, .. }) => {
                problems.into_iter().map(without_origin).collect()
            }
            Err(other) => {
                let text = other.to_string();
                vec![text[text.find("is not one").unwrap()..].to_owned()]
            }
        };
        let expected = header(&path, "# problem: ");
        for text in &expected {
            assert!(
                found.iter().any(|found| found.starts_with(text)),
                "{path:?} lacks {text:?}: {found:#?}"
            );
        }
        assert_eq!(found.len(), expected.len(), "{path:?}: {found:#?}");
    }
}

#[test]
fn the_schema_refuses_every_bad_file_that_it_can_express() {
    for path in corpus("bad") {
        let looser = !header(&path, "# schema: accepts").is_empty();
        if !looser {
            assert!(
                !schema_errors(&path).is_empty(),
                "the schema accepts {path:?}"
            );
        }
    }
}

#[test]
fn a_misplaced_secret_is_never_repeated() {
    let mut marked = 0;
    for path in corpus("bad") {
        let text = fs::read_to_string(&path).unwrap();
        marked += usize::from(text.contains("hvs.marker"));
        let error = load_file(&path).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("marker"), "{path:?}");
    }
    assert!(marked >= 3);
}

#[test]
fn problems_carry_the_line_of_the_value() {
    let path = corpus_file("bad/logging.yaml");
    let Err(LoadError::Invalid { problems, .. }) = load_file(&path) else {
        panic!("loads");
    };
    let text = fs::read_to_string(&path).unwrap();
    for problem in problems {
        let Some(Origin::File { line, column }) = problem.origin else {
            panic!("{problem:?}");
        };
        let line = text
            .lines()
            .nth(usize::try_from(line).unwrap() - 1)
            .unwrap();
        let at = &line[usize::try_from(column).unwrap() - 1..];
        assert_eq!(Some(at), problem.value.as_deref());
    }
}

#[test]
fn every_setting_of_the_schema_is_resolved_in_some_file() {
    let mut resolved = BTreeSet::new();
    for path in corpus("good") {
        let settings = load_file(&path).unwrap().settings;
        resolved.extend(settings.into_iter().map(|setting| setting.path.to_owned()));
    }
    assert_eq!(resolved, leaves().into_keys().collect());
}

#[test]
fn a_default_is_what_the_schema_says() {
    let leaves = leaves();
    for setting in load_file(&corpus_file("good/minimal.yaml"))
        .unwrap()
        .settings
    {
        if setting.origin == Origin::Default {
            let described = leaves[setting.path].get("default");
            assert_eq!(described, Some(&setting.value), "{}", setting.path);
        }
    }
}

/// `UPDATE_DOCS=1` writes the rows; a new setting needs a row that begins with its path.
#[test]
fn the_reference_page_has_the_declared_row_of_every_setting() {
    let rows: BTreeMap<_, _> = reference_rows().collect();
    let mut found = Vec::new();
    let mut lines = Vec::new();
    for line in page().lines() {
        let path = line
            .strip_prefix("| `")
            .and_then(|rest| rest.split('`').next());
        // The flags and variables of a setting have a table of their own.
        let row = path
            .filter(|_| !line.contains("BAO_KMS_PROVIDER_"))
            .and_then(|path| {
                found.extend(rows.get_key_value(path).map(|(path, _)| *path));
                rows.get(path).cloned()
            });
        lines.push(row.unwrap_or_else(|| line.to_owned()));
    }
    found.sort_unstable();
    assert_eq!(found, rows.keys().copied().collect::<Vec<_>>());
    let declared = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let mut file = fs::File::create(page_path()).unwrap();
        file.write_all(declared.as_bytes()).unwrap();
    }
    assert!(
        page() == declared,
        "docs/configuration.md is out of date; write it with: UPDATE_DOCS=1 cargo test --test config"
    );
}

#[test]
fn the_examples_of_the_reference_page_load() {
    let page = page();
    let examples: Vec<&str> = page
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    assert!(examples.len() >= 2);
    for example in examples {
        assert_eq!(parse_text(example).unwrap().warnings, [], "{example}");
    }
}

#[test]
fn flags_and_variables_replace_settings_and_are_checked_like_the_file() {
    let path = corpus_file("good/minimal.yaml");
    let environment = Environment {
        variables: [("BAO_KMS_PROVIDER_LOG_LEVEL".to_owned(), "loud".to_owned())].into(),
        effective_uid: 0,
    };
    let flags = Flags {
        config: Some(path),
        health_address: Some("127.0.0.1:8081".to_owned()),
        ..Flags::default()
    };
    let Err(LoadError::Invalid { problems, .. }) = load(&flags, &environment) else {
        panic!("loads");
    };
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "server.healthAddress (from --health-address): \"127.0.0.1:8081\" must differ from \
             server.metricsAddress; choose another port, or leave one of them empty",
            "logging.level (from BAO_KMS_PROVIDER_LOG_LEVEL): \"loud\" must be debug or info or \
             warn or error",
        ]
    );
}

#[test]
fn what_is_allowed_but_probably_not_meant_is_a_warning() {
    let minimal = fs::read_to_string(corpus_file("good/minimal.yaml")).unwrap();
    for (path, before, after) in [
        (
            "server.metricsAddress",
            "server:",
            "server:\n  metricsAddress: 0.0.0.0:8081",
        ),
        (
            "server.healthAddress",
            "server:",
            "server:\n  healthAddress: \":8082\"",
        ),
        ("openbao.timeout", "openbao:", "openbao:\n  timeout: 3s"),
        (
            "auth.loginBeforeTokenExpiry",
            "auth:",
            "auth:\n  loginBeforeTokenExpiry: 30m",
        ),
        ("auth.cert", "auth:", "auth:\n  cert: {name: x}"),
        (
            "auth.jwt.mountPath",
            "auth/harbor-east-kms",
            "harbor-east-kms",
        ),
        (
            "bootstrap.retryInterval",
            "transit:",
            "bootstrap: {retryInterval: 61s}\ntransit:",
        ),
        (
            "status.deepProbeInterval",
            "transit:",
            "status: {deepProbeInterval: 29s}\ntransit:",
        ),
        (
            "status.statusMaxStaleness",
            "transit:",
            "status: {statusMaxStaleness: 37s}\ntransit:",
        ),
        (
            "state.path",
            "transit:",
            "state: {path: /srv/registry.json}\ntransit:",
        ),
    ] {
        let warnings = parse_text(&minimal.replacen(before, after, 1))
            .unwrap()
            .warnings;
        let paths: Vec<_> = warnings
            .iter()
            .map(|warning| warning.path.as_str())
            .collect();
        assert_eq!(paths, [path]);
    }
}

#[test]
fn a_login_that_this_build_cannot_do_is_named() {
    for (name, setting) in [
        ("good/cert.yaml", Some("auth.method is cert")),
        ("good/oauth2.yaml", Some("auth.jwt.source is oauth2")),
        ("good/minimal.yaml", None),
    ] {
        let auth = load_file(&corpus_file(name)).unwrap().config.auth;
        let refusal = auth.supported().err().map(|refusal| refusal.to_string());
        match (refusal, setting) {
            (Some(refusal), Some(setting)) => assert!(refusal.starts_with(setting), "{refusal}"),
            (refusal, setting) => assert_eq!(refusal.as_deref(), setting),
        }
    }
}

#[test]
fn the_login_timeout_of_zero_follows_the_request_timeout() {
    let minimal = fs::read_to_string(corpus_file("good/minimal.yaml")).unwrap();
    for (timeout, effective) in [("2s", 5), ("7s", 7)] {
        let text = minimal.replace("openbao:\n", &format!("openbao:\n  timeout: {timeout}\n"));
        let config = parse_text(&text).unwrap().config;
        assert_eq!(config.auth.login_timeout.as_secs(), effective);
    }
}

/// Every setting that is not a section, with its schema.
fn leaves() -> BTreeMap<String, Value> {
    fn collect(path: &str, schema: &Value, leaves: &mut BTreeMap<String, Value>) {
        match schema["properties"].as_object() {
            Some(properties) => {
                for (key, schema) in properties {
                    collect(&format!("{path}.{key}"), schema, leaves);
                }
            }
            None => {
                leaves.insert(path[1..].to_owned(), schema.clone());
            }
        }
    }
    let mut leaves = BTreeMap::new();
    collect("", &schema(), &mut leaves);
    leaves
}

fn page() -> String {
    fs::read_to_string(page_path()).unwrap()
}

fn page_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md")
}

fn corpus_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(name)
}

fn corpus(name: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(corpus_file(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 5);
    files
}

fn parse_text(text: &str) -> Result<Loaded, LoadError> {
    let path = PathBuf::from("text");
    parse(text, path, &Flags::default(), &Environment::default())
}

fn load_file(path: &Path) -> Result<Loaded, LoadError> {
    let flags = Flags {
        config: Some(path.to_owned()),
        ..Flags::default()
    };
    load(&flags, &Environment::default())
}

fn header(path: &Path, mark: &str) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix(mark).map(str::to_owned))
        .collect()
}

fn without_origin(problem: Problem) -> String {
    Problem {
        origin: None,
        ..problem
    }
    .to_string()
}

/// Reads the YAML without the loader's limits, as an editor would.
fn schema_errors(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let instance: Value = serde_saphyr::from_str(&text).unwrap();
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    validator
        .iter_errors(&instance)
        .map(|error| error.to_string())
        .collect()
}
