//! One writer at a time, across handles and processes.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use kms_node::state::{LockError, MissingCheckpoint, StateError, StatePath, StateReader};

use crate::node::{DOCUMENT, Node, chain, first, key_path, scope};

const STATE_OF_CHILD: &str = "STATE_OF_LOCK_TEST_CHILD";

#[track_caller]
fn assert_locked(node: &Node) {
    let error = node.writer(MissingCheckpoint::Refuse).err().unwrap();
    assert!(matches!(error, StateError::Lock(LockError::Locked { .. })));
    let text = chain(&error);
    for part in [
        "key-registry.json.lock",
        "is locked by process",
        "nothing was changed",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_second_writer_is_refused_and_readers_are_not() {
    let document = first(1);
    let node = Node::with(Some(&document), None);
    let locked = node.reader().lock().unwrap();
    assert_locked(&node);
    let writer = locked.start_writing(MissingCheckpoint::Refuse).unwrap();
    assert_locked(&node);
    let stored = node.reader().load().unwrap();
    assert_eq!(stored.document, Some(document));
    drop(writer);
    node.writer(MissingCheckpoint::Refuse).unwrap();
}

#[test]
fn looking_at_the_locked_state_repairs_nothing() {
    let node = Node::with(Some(&first(1)), None);
    let before = node.content();
    let locked = node.reader().lock().unwrap();
    locked.load().unwrap();
    drop(locked);
    assert_eq!(node.content(), before);
}

#[test]
fn a_refused_start_releases_the_lock() {
    let node = Node::with(None, Some(&first(1)));
    node.writer(MissingCheckpoint::Refuse).err().unwrap();
    node.reader().lock().unwrap();
}

#[test]
fn a_writer_needs_its_directory() {
    let node = Node::new();
    let missing = node.file("none").join(DOCUMENT);
    let path = StatePath::parse(&missing).unwrap();
    let reader = StateReader::new(path, scope(), key_path());
    assert_eq!(reader.load().unwrap().document, None);
    let error = reader.lock().unwrap_err();
    assert!(matches!(error, StateError::NoDirectory { .. }), "{error}");
}

#[test]
fn the_lock_of_another_process_ends_when_that_process_is_killed() {
    let node = Node::new();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "lock::hold_the_lock", "--ignored", "--nocapture"])
        .env(STATE_OF_CHILD, node.file(DOCUMENT))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let held = lines.map_while(Result::ok).any(|line| line == "locked");

    if held {
        assert_locked(&node);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(held, "the child did not get the lock");
    node.writer(MissingCheckpoint::Refuse).unwrap();
}

#[test]
#[ignore = "the other process of the test above, which runs it"]
fn hold_the_lock() {
    let state = env::var_os(STATE_OF_CHILD).unwrap();
    let path = StatePath::parse(Path::new(&state)).unwrap();
    let _locked = StateReader::new(path, scope(), key_path()).lock().unwrap();
    println!("\nlocked");
    // Ends with the parent's pipe at the latest.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}
