//! A rebuilt state is put in place, and a process that dies on the way leaves what the same command
//! completes.
//!
//! Who dies is this test program, run once more on a disk that kills it at a given moment.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::BorrowedFd,
    path::Path,
    process::Command,
    sync::Arc,
};

use kms_domain::{
    confirmed::Confirmed,
    digest::TextHash,
    fingerprint::IdentityFingerprint,
    key::KeyScope,
    recovery::{
        journal::{Journal, Kept},
        rebuild::{Evidence, Found, OwnFiles, PeerEvidence, RebuildPlan, rebuild},
    },
    registry::{
        checkpoint::{Checkpoint, CheckpointStatus},
        document::Document,
    },
    transit::{KeyProfile, TransitVersion},
};
use kms_node::{
    advice::{self, state::of_error},
    state::{
        MissingCheckpoint, StateError, StatePath, StateReader,
        disk::{Disk, SystemDisk},
        rebuild::{RebuildError, journal_name},
    },
};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;

use crate::node::{
    CHECKPOINT, DOCUMENT, FailingDisk, Moment, Node, after, document, first, key_path, scope,
};

/// Told to the program that is to die.
const FATAL_MOMENT: &str = "KMS_TEST_FATAL_MOMENT";
const DIRECTORY: &str = "KMS_TEST_DIRECTORY";

/// What is left of the state before it is rebuilt.
#[derive(Debug, Clone, Copy)]
enum Left {
    Nothing,
    Checkpoint,
    DamagedState,
    DamagedPair,
    Unanchored,
    /// Valid, and to be replaced; its checkpoint is behind.
    InPlace,
}

const ALL: [Left; 6] = [
    Left::Nothing,
    Left::Checkpoint,
    Left::DamagedState,
    Left::DamagedPair,
    Left::Unanchored,
    Left::InPlace,
];

impl Left {
    fn node(self) -> Node {
        let old = after(&first(1), 2);
        let newer = after(&old, 3);
        match self {
            Self::Nothing => Node::new(),
            Self::Checkpoint => Node::with(None, Some(&old)),
            Self::DamagedState => {
                let node = Node::with(None, Some(&old));
                node.put_text(DOCUMENT, Some("{\"half\":".to_owned()));
                node
            }
            Self::DamagedPair => {
                let node = Node::new();
                node.put_text(DOCUMENT, Some("{\"half\":".to_owned()));
                node.put_text(CHECKPOINT, Some("damaged".to_owned()));
                node
            }
            Self::Unanchored => Node::with(Some(&newer), None),
            Self::InPlace => Node::with(Some(&newer), Some(&old)),
        }
    }
}

fn peer() -> PeerEvidence {
    let document = document(7, Some(&first(1)), 8);
    PeerEvidence {
        name: "peer".to_owned(),
        checkpoint: Some(Checkpoint::of(&document)),
        document,
    }
}

fn profile() -> KeyProfile {
    let metadata = json!({
        "type": "aes256-gcm96", "latest_version": 2,
        "keys": {"1": 1_700_000_060, "2": 1_700_000_120},
        "supports_encryption": true, "supports_decryption": true,
    });
    let metadata = serde_json::from_value(metadata).unwrap();
    KeyProfile::check(&metadata, &key_path().key_name).unwrap()
}

/// What follows from the files that are there and a peer.
fn plan(own: OwnFiles) -> RebuildPlan {
    rebuild(&Evidence {
        scope: Arc::new(KeyScope::new(scope())),
        path: key_path(),
        key: profile(),
        replace: own.in_service().map(|document| document.hash().clone()),
        own,
        etcd: Vec::new(),
        records: Vec::new(),
        peers: vec![peer()],
        not_promoted: TransitVersion::new(2),
        accepted: None,
    })
    .unwrap()
}

fn confirmed(own: OwnFiles) -> Confirmed<RebuildPlan> {
    let plan = plan(own);
    let hash = plan.hash().clone();
    plan.confirm(&hash).unwrap()
}

fn journal(plan: &RebuildPlan, kept: Vec<Kept>) -> Journal {
    let next = plan.next();
    Journal {
        recovered_at: "2026-01-01T00:00:00Z".to_owned(),
        plugin_version: "v1".to_owned(),
        plan: plan.hash().clone(),
        fingerprint: IdentityFingerprint::of(&scope(), &key_path()),
        generation: next.generation(),
        previous_hash: next.previous_hash().cloned(),
        state_hash: next.hash().clone(),
        active: TransitVersion::FIRST,
        evidence: Vec::new(),
        not_promoted: None,
        kept,
        limitations: Vec::new(),
    }
}

fn reader(directory: &Path) -> StateReader {
    let path = StatePath::parse(&directory.join(DOCUMENT)).unwrap();
    StateReader::new(path, scope(), key_path())
}

/// What the command does: complete, or plan anew what was reviewed and put it in place.
fn apply(
    directory: &Path,
    disk: &mut dyn Disk,
    reviewed: &RebuildPlan,
) -> Result<(), RebuildError> {
    let locked = reader(directory).lock().unwrap();
    if locked.complete_rebuild(reviewed.hash())?.is_some() {
        return Ok(());
    }
    let remains = locked.remains().unwrap();
    let kept = remains.kept();
    let plan = plan(remains.files).confirm(reviewed.hash()).unwrap();
    locked.rebuild_on(disk, &plan, &journal(plan.plan(), kept))
}

/// The pair of the plan, its journal, and every file from before.
#[track_caller]
fn assert_in_place(node: &Node, plan: &RebuildPlan, before: &Before) {
    let stored = node.reader().load().unwrap();
    assert_eq!(stored.document.as_ref(), Some(plan.next()));
    assert_eq!(stored.anchor, CheckpointStatus::Current);
    let content = node.content();
    let path = StatePath::parse(&node.file(DOCUMENT)).unwrap();
    let (_, mode, journal) = &content[&journal_name(&path, plan.hash())];
    assert_eq!(*mode, 0o640);
    assert_eq!(
        Journal::decode(journal).unwrap().state_hash,
        *plan.next().hash()
    );
    for (name, _, bytes) in before {
        let kept = content.iter().filter(|(kept, _)| {
            let kept = kept.to_str().unwrap();
            kept.starts_with(&format!("{name}.kept-"))
        });
        let kept: Vec<_> = kept.map(|(_, (_, mode, bytes))| (*mode, bytes)).collect();
        assert_eq!(kept, [(0o640, bytes)], "{name}");
    }
    assert_eq!(content.len(), 3 + before.len(), "{:?}", content.keys());
}

type Before = Vec<(String, u64, Vec<u8>)>;

/// The files that are to be kept: the checkpoint of a state in service tells no more than the state.
fn files(node: &Node) -> Before {
    let own = node.reader().remains().unwrap().files;
    let in_service = own.in_service().is_some();
    let content = node.content().into_iter();
    let content = content.filter(|(name, _)| !in_service || name == DOCUMENT);
    let text = |name: std::ffi::OsString| name.into_string().unwrap();
    content
        .map(|(name, (inode, _, bytes))| (text(name), inode, bytes))
        .collect()
}

#[test]
fn a_rebuilt_state_replaces_what_is_left_and_keeps_it() {
    for left in ALL {
        let node = left.node();
        let before = files(&node);
        let plan = plan(node.reader().remains().unwrap().files);
        apply(node.directory(), &mut SystemDisk, &plan).unwrap();
        assert_in_place(&node, &plan, &before);
        // Again it finds its work done, and a provider starts with it.
        let done = node.content();
        apply(node.directory(), &mut SystemDisk, &plan).unwrap();
        assert_eq!(node.content(), done);
        let writer = node.writer(MissingCheckpoint::Refuse).unwrap();
        assert_eq!(writer.committed(), Some(plan.next()), "{left:?}");
    }
}

#[test]
fn a_kill_at_any_moment_is_completed_by_the_same_command() {
    if let (Some(moment), Some(directory)) = (env::var_os(FATAL_MOMENT), env::var_os(DIRECTORY)) {
        let fatal = moment.to_str().unwrap().parse().unwrap();
        let mut disk = FatalDisk { moment: 0, fatal };
        let directory = Path::new(&directory);
        let plan = plan(reader(directory).remains().unwrap().files);
        return apply(directory, &mut disk, &plan).unwrap();
    }
    for left in ALL {
        for moment in 0.. {
            let node = left.node();
            let before = files(&node);
            let plan = plan(node.reader().remains().unwrap().files);
            let ended = Command::new(env::current_exe().unwrap())
                .args([
                    "--exact",
                    "rebuild::a_kill_at_any_moment_is_completed_by_the_same_command",
                ])
                .env(FATAL_MOMENT, moment.to_string())
                .env(DIRECTORY, node.directory())
                .output()
                .unwrap();
            if ended.status.success() {
                assert!(moment >= 22, "{left:?} has only {moment} moments");
                assert_in_place(&node, &plan, &before);
                break;
            }
            assert_eq!(ended.status.code(), None, "{ended:?}");
            // Nothing in between is taken for a newer or an older state than it is.
            if let Ok(stored) = node.reader().load()
                && let Some(document) = stored.document
            {
                let known = [Some(plan.next()), plan.own().document.valid()];
                assert!(known.contains(&Some(&document)), "{left:?} {moment}");
            }
            apply(node.directory(), &mut SystemDisk, &plan).unwrap();
            assert_in_place(&node, &plan, &before);
        }
    }
}

#[test]
fn a_disk_that_fails_is_told_and_the_same_command_goes_on() {
    for left in [Left::Nothing, Left::DamagedState, Left::InPlace] {
        let calls = (0..).find(|&call| {
            let outcomes = Moment::ALL.map(|moment| {
                let node = left.node();
                let before = files(&node);
                let plan = plan(node.reader().remains().unwrap().files);
                let mut disk = FailingDisk::at(call, moment);
                let outcome = apply(node.directory(), &mut disk, &plan);
                if outcome.is_err() {
                    apply(node.directory(), &mut SystemDisk, &plan).unwrap();
                }
                assert_in_place(&node, &plan, &before);
                outcome
            });
            for outcome in &outcomes {
                assert!(
                    matches!(outcome, Ok(()) | Err(RebuildError::Disk(_))),
                    "{outcome:?}"
                );
            }
            outcomes.iter().all(Result::is_ok)
        });
        assert!(calls.unwrap() >= 11, "{left:?}: {calls:?}");
    }
}

#[test]
fn a_copy_that_was_cut_short_between_its_two_names_is_completed() {
    let node = Left::DamagedState.node();
    let before = files(&node);
    let plan = plan(node.reader().remains().unwrap().files);
    let kept = node.reader().remains().unwrap().kept();
    for kept in &kept {
        let (copy, temporary) = (
            node.file(&kept.kept_as),
            node.file(&format!(".{}.tmp", kept.kept_as)),
        );
        fs::copy(node.file(&kept.file), &temporary).unwrap();
        fs::hard_link(temporary, copy).unwrap();
    }
    apply(node.directory(), &mut SystemDisk, &plan).unwrap();
    assert_in_place(&node, &plan, &before);
}

#[test]
fn nothing_is_written_over_files_that_the_plan_was_not_made_for() {
    let node = Left::Checkpoint.node();
    let stale = confirmed(node.reader().remains().unwrap().files);
    let moved_on = after(&first(1), 9);
    node.put(Some(&moved_on), Some(&moved_on));
    let before = node.content();
    let locked = node.reader().lock().unwrap();
    let refused = locked.rebuild(&stale, &journal(stale.plan(), Vec::new()));
    assert!(matches!(refused, Err(RebuildError::Changed { .. })));
    assert_eq!(node.content(), before);

    // Nor over what is under a name that is taken.
    let node = Left::DamagedState.node();
    let plan = confirmed(node.reader().remains().unwrap().files);
    let kept = node.reader().remains().unwrap().kept();
    node.put_text(&kept[0].kept_as, Some("somebody's".to_owned()));
    let locked = node.reader().lock().unwrap();
    let refused = locked.rebuild(&plan, &journal(plan.plan(), kept));
    assert!(matches!(refused, Err(RebuildError::Disk(_))), "{refused:?}");
    let path = StatePath::parse(&node.file(DOCUMENT)).unwrap();
    let name = journal_name(&path, plan.plan().hash());
    let node = Left::Nothing.node();
    node.put_text(name.to_str().unwrap(), Some("somebody's".to_owned()));
    let locked = node.reader().lock().unwrap();
    let refused = locked.complete_rebuild(plan.plan().hash());
    assert!(
        matches!(refused, Err(RebuildError::Journal { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_old_plan_does_not_take_back_what_was_accepted_after_it() {
    for left in ALL {
        let node = left.node();
        let plan = plan(node.reader().remains().unwrap().files);
        apply(node.directory(), &mut SystemDisk, &plan).unwrap();
        let made = plan.next();
        let newest = after(&after(made, 10), 11);
        let other = document(7, Some(&first(1)), 12);
        for (document, checkpoint) in [
            // The state of the plan comes back from a backup, its checkpoint does not.
            (made, Some(&newest)),
            (made, Some(&other)),
            (&newest, Some(&newest)),
        ] {
            node.put(Some(document), checkpoint);
            let before = node.content();
            let locked = node.reader().lock().unwrap();
            let completed = locked.complete_rebuild(plan.hash()).unwrap();
            assert!(completed.is_none(), "{left:?}");
            assert_eq!(node.content(), before);
        }
        node.put(Some(made), None);
        node.put_text(CHECKPOINT, Some("damaged since".to_owned()));
        let locked = node.reader().lock().unwrap();
        assert!(locked.complete_rebuild(plan.hash()).unwrap().is_none());
    }
}

#[test]
fn what_another_release_wrote_is_not_taken_for_damage() {
    let newer = |text: String| {
        let text = text.replace("/v1alpha1", "/v9").replace("/v1alpha2", "/v9");
        text.replacen('{', "{\"new\": {\"generation\": []},", 1)
    };
    let state = first(1);
    let files = [
        (newer(state.encode()), Checkpoint::of(&state).encode()),
        (state.encode(), newer(Checkpoint::of(&state).encode())),
    ];
    for (state, checkpoint) in files {
        let node = Node::new();
        node.put_text(DOCUMENT, Some(state));
        node.put_text(CHECKPOINT, Some(checkpoint));
        let before = node.content();
        let refused = node.reader().load().unwrap_err();
        assert!(matches!(refused, StateError::OtherRelease { .. }));
        let said = "written by a newer release (schema \"keyregistry.openbao-kms/";
        assert!(refused.to_string().contains(said), "{refused}");
        assert!(refused.finding().ends_with("/v9\")"), "{refused}");
        let remains = node.reader().remains().unwrap();
        let kept = remains.kept();
        let refused = remains.require_known_release();
        assert!(matches!(refused, Err(StateError::OtherRelease { .. })));
        // Who gives it up has a copy of it.
        assert_eq!(kept.len(), 2);
        assert_eq!(node.content(), before);
    }
    let node = Node::with(Some(&first(1)), None);
    node.put_text(CHECKPOINT, Some("{}".to_owned()));
    let remains = node.reader().remains().unwrap();
    let content = TextHash::of("{}");
    assert_eq!(remains.files.checkpoint, Found::Damaged { content });
    let document: Option<&Document> = remains.files.document.valid();
    assert_eq!(document, Some(&first(1)));
}

#[test]
fn a_file_that_is_far_too_large_is_damaged_and_kept_like_any_other() {
    let node = Node::with(Some(&first(1)), None);
    let large = "x".repeat(5 * 1024 * 1024);
    node.put_text(DOCUMENT, Some(large.clone()));
    let refused = node.reader().load().unwrap_err();
    assert!(matches!(refused, StateError::CorruptDocument { .. }));
    assert_eq!(of_error(&refused), &advice::state::CORRUPT);
    let remains = node.reader().remains().unwrap();
    let content = TextHash::of(&large);
    assert_eq!(remains.files.document, Found::Damaged { content });
    assert_eq!(remains.kept().len(), 1);
}

/// The disk of the machine, until a moment of its use.
struct FatalDisk {
    moment: u32,
    fatal: u32,
}

impl FatalDisk {
    fn pass(&mut self) -> io::Result<()> {
        if self.moment == self.fatal {
            kill_process(getpid(), Signal::KILL)?;
        }
        self.moment += 1;
        Ok(())
    }
}

impl Disk for FatalDisk {
    fn write(&mut self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        SystemDisk.write(file, half)?;
        self.pass()?;
        SystemDisk.write(file, rest)?;
        self.pass()
    }

    fn sync(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.pass()?;
        SystemDisk.sync(file)?;
        self.pass()
    }

    fn rename(&mut self, directory: BorrowedFd<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.pass()?;
        SystemDisk.rename(directory, from, to)?;
        self.pass()
    }
}
