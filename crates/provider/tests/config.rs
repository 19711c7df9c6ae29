//! One corpus of configuration files for the loader and the schema.
//!
//! Every file of `config/bad` names in its first lines what must be reported, all of it; the line
//! `# schema: accepts` marks rules that JSON Schema cannot express.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path, path::PathBuf};

use provider::config::{
    Environment, Flags, LoadError, Loaded, Origin, Problem, leaf_paths, load, schema,
};

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
    assert_eq!(resolved, leaf_paths().into_iter().collect());
}

#[test]
fn a_default_is_what_the_schema_says() {
    let loaded = load_file(&corpus_file("good/minimal.yaml")).unwrap();
    for setting in loaded.settings {
        let pointer = format!("/properties/{}", setting.path.replace('.', "/properties/"));
        let schema = schema();
        let described = schema.pointer(&pointer).unwrap().get("default");
        if setting.origin == Origin::Default {
            assert_eq!(described, Some(&setting.value), "{}", setting.path);
        }
    }
}

#[test]
fn the_published_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/config.schema.json");
    let published = fs::read_to_string(&path).unwrap();
    let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    assert!(
        published == current,
        "docs/config.schema.json is out of date; write it with: bao-kms-provider config schema"
    );
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
    let instance: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    validator
        .iter_errors(&instance)
        .map(|error| error.to_string())
        .collect()
}
