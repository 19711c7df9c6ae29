//! The result of `verify-attestation`: signature, form and subjects of one statement, without network.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use kms_node::{
    advice::{
        Cause, Site,
        attestation::{INVALID_SIGNATURE, MALFORMED, OTHER_FILES, PUBLIC_KEY_UNUSABLE, UNREADABLE},
    },
    exit::Exit,
    report::{CheckName, counted, one_line, outcome::Outcome, table::Table},
};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    envelope::MAX_BYTES,
    public_key::{KeyProblem, PublicKey},
    statement::{Predicate, Role, Statement, StatementProblem, Subject},
};
use crate::recovery::{backup_record::note, open_regular, recover_state::read_file};

/// Files of a verification.
#[derive(Debug)]
pub struct Request {
    pub statement: PathBuf,
    /// Files with the public keys of the signer: the one of any is enough.
    pub keys: Vec<PathBuf>,
    /// Files that the statement must be about.
    pub subjects: Vec<(Role, PathBuf)>,
}

/// The members of `verify-attestation`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VerifyAttestation {
    /// Absent if nothing was verified.
    #[serde(flatten)]
    verified: Option<Verified>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Verified {
    /// SHA-256 of the public key in DER that verified the signature.
    key_id: String,
    subjects: Vec<Subject>,
    /// Content of the statement: the verdict in it is that of the stated command.
    statement: Predicate,
}

/// Failure before the statement is known.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the public key {}", path.display())]
    Key {
        path: PathBuf,
        #[source]
        problem: KeyProblem,
    },
    #[error(transparent)]
    Statement(#[from] StatementProblem),
}

impl Problem {
    fn cause(&self) -> &'static Cause {
        match self {
            Self::Unreadable { .. } => &UNREADABLE,
            Self::Key { .. } => &PUBLIC_KEY_UNUSABLE,
            Self::Statement(StatementProblem::Signature { .. }) => &INVALID_SIGNATURE,
            Self::Statement(StatementProblem::Envelope(_) | StatementProblem::Form) => &MALFORMED,
        }
    }
}

const SIGNATURE: CheckName = CheckName("attestation.signature", "Signature by the given key");
const ETCD: CheckName = CheckName("attestation.etcd", "Digest of the etcd snapshot");
const OPENBAO: CheckName = CheckName("attestation.openbao", "Digest of the OpenBao snapshot");

const NO_FILES: &str = "No snapshot was given, so the digests in the statement were compared with no \
     file.";
const TRUST: &str = "The statement is as true as the holder of the signing key: the signature proves the \
     origin and the content, not the time.";

/// Verifies a statement.
#[must_use]
pub fn verify(request: &Request, site: &Site<'_>, now: SystemTime) -> Outcome<VerifyAttestation> {
    let members = VerifyAttestation { verified: None };
    let mut outcome = Outcome::new("verify-attestation", now, members);
    let (key_id, statement) = match open(request) {
        Ok(opened) => opened,
        Err(problem) => {
            let advice = problem.cause().advise(site, &[]);
            outcome.add_checks([SIGNATURE.fail(one_line(&problem)).code(advice.code)]);
            outcome.conclude_with(&advice);
            outcome.set_found(one_line(&problem));
            return outcome;
        }
    };

    outcome.add_checks([SIGNATURE.pass().message(key_id.clone())]);
    let mut differs = None;
    for (role, name) in [(Role::EtcdSnapshot, ETCD), (Role::OpenbaoSnapshot, OPENBAO)] {
        let mut given = request.subjects.iter();
        let given = given.find(|(given, _)| *given == role);
        let compared = given.map(|(_, path)| compare(&statement, role, path));
        outcome.add_checks([match compared {
            None => name.skip("no file was given"),
            Some(Ok(sha256)) => name.pass().message(sha256),
            Some(Err((cause, found))) => {
                differs.get_or_insert((cause, found.clone()));
                name.fail(found).code(cause.code)
            }
        }]);
    }
    let predicate = &statement.predicate;
    match differs {
        None => {
            let headline = format!(
                "the statement of {} on {} is authentic: {} was {}, exit code {}",
                predicate.time,
                counted(statement.subject.len(), "file"),
                predicate.command,
                predicate.verdict,
                predicate.exit_code
            );
            outcome.conclude("verified", Exit::Success, headline);
        }
        Some((cause, found)) => {
            outcome.conclude_with(&cause.advise(site, &[]));
            outcome.set_found(found);
        }
    }
    outcome.add_limitations(request.subjects.is_empty().then_some(NO_FILES));
    outcome.add_limitations([TRUST]);
    outcome.add_tables(tables(&statement));
    outcome.result.verified = Some(Verified {
        key_id,
        subjects: statement.subject,
        statement: statement.predicate,
    });
    outcome
}

fn open(request: &Request) -> Result<(String, Statement), Problem> {
    let read = |path: &Path| {
        read_file(path, MAX_BYTES).map_err(|source| Problem::Unreadable {
            path: path.to_owned(),
            source,
        })
    };
    let keys = request.keys.iter().map(|path| {
        PublicKey::from_file(&read(path)?).map_err(|problem| Problem::Key {
            path: path.clone(),
            problem,
        })
    });
    let keys: Vec<_> = keys.collect::<Result<_, _>>()?;
    let (statement, key_id) = Statement::open(&read(&request.statement)?, &keys)?;
    Ok((key_id, statement))
}

/// The digest of the file, if the statement has it under this role.
fn compare(
    statement: &Statement,
    role: Role,
    path: &Path,
) -> Result<String, (&'static Cause, String)> {
    let noted = open_regular(path).and_then(|file| note(&file));
    let noted = noted.map_err(|source| {
        let path = path.to_owned();
        let problem = Problem::Unreadable { path, source };
        (&UNREADABLE, one_line(&problem))
    })?;
    let sha256 = noted.sha256_hex();
    let mut subjects = statement.subject.iter().filter(|it| it.is(role));
    match subjects.any(|it| it.digest.sha256 == sha256) {
        true => Ok(sha256),
        false => {
            let path = path.display();
            let found = format!("{path} has the SHA-256 {sha256}, which is not in the statement");
            Err((&OTHER_FILES, found))
        }
    }
}

fn tables(statement: &Statement) -> [Table; 3] {
    let predicate = &statement.predicate;
    let mut facts = Table::new("statement", ["fact", "value"]);
    for (fact, value) in [
        ("command", &predicate.command),
        ("verdict", &predicate.verdict),
        ("time", &predicate.time),
        ("version of the program", &predicate.tool.version),
        ("commit", &predicate.tool.commit),
        ("identity", &predicate.identity_fingerprint),
        ("cluster", &predicate.cluster_fingerprint),
        ("key", &predicate.key_fingerprint),
    ] {
        facts.facts(fact, [value]);
    }
    facts.facts("exit code", [predicate.exit_code]);
    facts.facts("cause", &predicate.cause);
    facts.facts(
        "previous statement",
        predicate.previous.as_ref().map(|it| &it.sha256),
    );
    let subjects = Table::of("files", &statement.subject)
        .column("file", |it| &it.name)
        .column("sha256", |it| &it.digest.sha256);
    let versions = Table::of("versions", &predicate.versions)
        .column("version", |it| it.transit_version)
        .column("keyIdHash", |it| it.key_id_hash.as_ref())
        .column("objects", |it| it.objects)
        .column("proven DEKs", |it| it.proven_deks)
        .column("opened", |it| it.opened_objects);
    [facts, subjects.table(), versions.table()]
}
