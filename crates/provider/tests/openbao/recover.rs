//! `recover-state`: a node of a real cluster gets its registry back from evidence, or is told why
//! not.

mod attest;
mod evidence;
mod fleet;
pub(crate) mod preview;
mod unreadable;

use std::fs;

use kms_domain::recovery::journal::Journal;
use serde_json::json;
use testkit::files;

use self::fleet::{FAST, Fleet, contents};

#[tokio::test]
async fn after_five_rotations_a_lost_state_comes_back_from_each_kind_of_evidence() {
    let fleet = Fleet::new(2, 6).await;
    let snapshot = fleet.snapshot("etcd.db").to_vec();
    let peer = fleet.peer_state("peer.json").to_vec();
    let record = fleet.record("record.json").to_vec();
    let all = [&snapshot[..], &peer[..], &record[..]].concat();
    let mut outputs = Vec::new();
    for (evidence, follows, limited) in [
        (snapshot, "none", "the chain restarts at 1"),
        (peer, "evidence", "no etcd data was given"),
        (record, "evidence", "no etcd data was given"),
        (fleet.live(), "none", "the chain restarts at 1"),
        (all, "evidence", "the chain goes on from that of"),
    ] {
        fleet.lose_state();
        let denied = fleet.lost.refused().await;
        denied.assert_refused(5, &["rotated to version 6", "recover-state"]);
        let plan = fleet.plan(&evidence);
        assert_eq!(plan["state"]["activeTransitVersion"], 6);
        assert_eq!(plan["state"]["follows"], follows);
        let states: Vec<_> = plan["versions"].as_array().unwrap().iter().collect();
        assert_eq!(states.len(), 6);
        assert!(states[1..].iter().all(|it| it["state"] == "retired"));
        let limitations = plan["limitations"].to_string();
        assert!(limitations.contains(limited), "{limitations}");
        let applied = fleet.apply(&evidence, &plan);
        outputs.extend([plan.to_string(), applied.to_string()]);

        let journal = fs::read(applied["journal"].as_str().unwrap()).unwrap();
        let journal = Journal::decode(&journal).unwrap();
        assert_eq!(plan["planHash"], journal.plan.as_str());
        assert_eq!(plan["state"]["hash"], journal.state_hash.as_str());
        assert_eq!(
            plan["evidence"].as_array().unwrap().len(),
            journal.evidence.len()
        );
        fleet.assert_recovered().await;
    }
    fleet.assert_no_secret(&outputs);
}

#[tokio::test]
async fn what_is_left_of_the_state_takes_part() {
    let fleet = Fleet::new(1, 3).await;
    let evidence = fleet.live();
    let document = fs::read(fleet.lost.state_file()).unwrap();
    let checkpoint = fs::read(fleet.lost.checkpoint()).unwrap();
    let before = fleet.lost.inspect();
    let after = |count: u64| before["stateGeneration"].as_u64().unwrap() + count;
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let put = |document: Option<&[u8]>, checkpoint: Option<&[u8]>| {
        fleet.lose_state();
        for (path, content) in [
            (fleet.lost.state_file(), document),
            (fleet.lost.checkpoint(), checkpoint),
        ] {
            if let Some(content) = content {
                files::replace(&path, content, 0o640);
            }
        }
    };
    let (good, cut) = (Some(&document[..]), half(&document));
    let (anchor, no_anchor) = (Some(&checkpoint[..]), half(&checkpoint));
    for (document, checkpoint, said, generation, follows, kept) in [
        // A checkpoint anchors the chain, whatever became of its state.
        (
            None,
            anchor,
            "there is no state document",
            after(1),
            "checkpoint",
            1,
        ),
        (
            Some(&cut[..]),
            anchor,
            "is not valid",
            after(1),
            "checkpoint",
            2,
        ),
        // A state without its checkpoint may be an older one, and is a lower bound.
        (good, None, "checkpoint", after(1), "evidence", 1),
        (
            good,
            Some(&no_anchor[..]),
            "is not valid",
            after(1),
            "evidence",
            2,
        ),
        // Damage alone tells nothing.
        (Some(&cut[..]), None, "is not valid", 1, "none", 1),
    ] {
        put(document, checkpoint);
        let found = contents(&fleet.lost.state_dir());
        let refused = fleet.lost.refused().await;
        refused.assert_refused(5, &[said, "recover-state"]);
        let plan = fleet.plan(&evidence);
        assert_eq!(plan["state"]["generation"], generation, "{plan:#}");
        assert_eq!(plan["state"]["follows"], follows, "{plan:#}");
        if follows != "none" {
            assert_eq!(plan["state"]["previousHash"], before["stateHash"]);
        }
        let applied = fleet.apply(&evidence, &plan);
        let copies = applied["keptFiles"].as_array().unwrap();
        assert_eq!(copies.len(), kept, "{applied:#}");
        for copy in copies {
            let original = found.iter().find(|(name, _)| copy["file"] == name.as_str());
            let copy = fleet
                .lost
                .state_dir()
                .join(copy["keptAs"].as_str().unwrap());
            assert_eq!(fs::read(copy).unwrap(), original.unwrap().1);
        }
        fleet.assert_recovered().await;
    }

    // An older state that was put back is not believed, but its active version is not undercut.
    put(good, None);
    let older = fs::read(fleet.lost.state_file()).unwrap();
    let plan = fleet.plan(&evidence);
    fleet.apply(&evidence, &plan);
    let newer = fs::read(fleet.lost.checkpoint()).unwrap();
    put(Some(&older), Some(&newer));
    let refused = fleet.lost.refused().await;
    refused.assert_refused(5, &["older document", "recover-state"]);
    let plan = fleet.plan(&evidence);
    assert_eq!(plan["state"]["generation"], after(2));
    fleet.apply(&evidence, &plan);
    fleet.assert_recovered().await;
}

#[tokio::test]
async fn a_state_in_use_or_in_place_and_an_unsafe_directory_are_refused() {
    let fleet = Fleet::new(1, 2).await;
    let evidence = fleet.peer_state("peer.json").to_vec();
    let (refused, text) = fleet.refused(&evidence);
    assert_eq!(refused, [("state_in_place".to_owned(), String::new())]);
    assert!(
        text.contains("--replace --expected-state-hash krs1."),
        "{text}"
    );

    // With its hash it is given up, and what it knew is not undercut.
    let state = fleet.lost.inspect();
    let hash = state["stateHash"].as_str().unwrap().to_owned();
    let wrong = format!("krs1.{}", "A".repeat(43));
    let replace = |hash: &str| {
        let flags = ["--replace", "--expected-state-hash", hash].map(str::to_owned);
        [&evidence[..], &flags].concat()
    };
    let (refused, _) = fleet.refused(&replace(&wrong));
    assert_eq!(refused[0].0, "other_state");
    let plan = fleet.plan(&replace(&hash));
    assert_eq!(plan["state"]["previousHash"], state["stateHash"]);
    assert_eq!(plan["state"]["follows"], "replaced-state");

    // A plan tells who holds the state; the application refuses.
    let provider = fleet.lost.serve().await;
    let running = fleet.plan(&replace(&hash));
    assert_eq!(running["planHash"], plan["planHash"]);
    let checks = running["checks"].to_string();
    let holds = format!("process {}", provider.pid());
    assert!(checks.contains(&holds), "{checks}");
    let apply = [
        "--apply",
        "--expected-plan-hash",
        plan["planHash"].as_str().unwrap(),
    ];
    let apply = [&replace(&hash), &apply.map(str::to_owned)[..]].concat();
    let (refused, text) = fleet.refused(&apply);
    assert_eq!(refused[0].0, "provider_running");
    assert!(text.contains("stop the provider"), "{text}");
    // Nothing else was looked at, and nothing is said to be well that was not.
    assert!(text.contains("[fail] provider.stopped"), "{text}");
    assert!(!text.contains("[pass]"), "{text}");
    provider.stop().await;

    fleet.apply(&replace(&hash), &plan);
    fleet.assert_recovered().await;

    fleet.lose_state();
    let open = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(fleet.lost.state_dir(), mode).unwrap();
    };
    open(0o770);
    let (refused, text) = fleet.refused(&evidence);
    assert_eq!(refused[0].0, "state_unusable");
    assert!(text.contains("mode 0770"), "{text}");
    open(0o750);
    files::replace(&fleet.lost.checkpoint(), b"{}", 0o644);
    let (refused, text) = fleet.refused(&evidence);
    assert_eq!(refused[0].0, "state_unusable");
    assert!(text.contains("mode 0644"), "{text}");
    fleet.lose_state();

    // What moved since the review is planned anew.
    let plan = fleet.plan(&evidence);
    let both = [&evidence[..], &fleet.live()[..]].concat();
    let apply = [
        "--apply",
        "--expected-plan-hash",
        plan["planHash"].as_str().unwrap(),
    ];
    let (refused, text) = fleet.refused(&[&both[..], &apply.map(str::to_owned)].concat());
    assert_eq!(refused[0].0, "plan_outdated");
    assert!(text.contains("make a new plan"), "{text}");
    fleet.apply(&evidence, &plan);
    fleet.assert_recovered().await;

    // The same command again finds its work done.
    let of: Vec<&str> = evidence.iter().map(String::as_str).collect();
    let hash = plan["planHash"].as_str().unwrap();
    let again = ["--apply", "--expected-plan-hash", hash, "--output", "json"];
    let again = fleet.recover(&[&of[..], &again].concat()).json();
    assert_eq!(again["verdict"], "continued");
    assert_eq!(again["state"]["hash"], plan["state"]["hash"]);
}

#[tokio::test]
async fn a_version_beyond_the_evidence_is_not_guessed_at() {
    let mut fleet = Fleet::new(1, 3).await;
    let old_etcd = fleet.snapshot("old.db").to_vec();
    let old_peer = fleet.peer_state("old.json").to_vec();
    let old_record = fleet.record("old-record.json").to_vec();
    fleet.lost.rotate().await;
    fleet.providers[0].encrypt_under(4).await;
    fleet.lose_state();
    let old = [&old_etcd[..], &old_peer[..], &old_record[..]].concat();
    let (refused, text) = fleet.refused(&old);
    let names = "old.json old-record.json old.db".to_owned();
    assert_eq!(refused, [("undecided".to_owned(), names)]);
    for said in [
        "has version 4 beyond version 3",
        "wait until a peer has promoted",
        "--assume-not-promoted 4",
        "no data is lost",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    // A peer that has promoted it settles it, and so does data under it.
    let fresh = fleet.peer_state("fresh.json").to_vec();
    let plan = fleet.plan(&[&old[..], &fresh[..]].concat());
    assert_eq!(plan["state"]["activeTransitVersion"], 4);
    let peer = fleet.providers.remove(0);
    fleet.store(&peer, "of-4").await;
    fleet.providers.push(peer);
    let plan = fleet.plan(&fleet.live());
    assert_eq!(plan["state"]["activeTransitVersion"], 4);
    let wrong = ["--assume-not-promoted".to_owned(), "4".to_owned()];
    let (refused, _) = fleet.refused(&[&fleet.live()[..], &wrong[..]].concat());
    assert_eq!(refused[0].0, "assumption_wrong");

    // Wrongly assumed, the node is behind its peers until its watcher promotes; nothing is lost.
    let assumed = [&old_etcd[..], &wrong[..]].concat();
    let plan = fleet.plan(&assumed);
    assert_eq!(plan["state"]["activeTransitVersion"], 3);
    let limitations = plan["limitations"].to_string();
    assert!(
        limitations.contains("is assumed, not shown"),
        "{limitations}"
    );
    let applied = fleet.apply(&assumed, &plan);
    let journal = fs::read(applied["journal"].as_str().unwrap()).unwrap();
    let journal = Journal::decode(&journal).unwrap();
    assert_eq!(journal.not_promoted.map(|version| version.get()), Some(4));
    let provider = fleet.lost.serve().await;
    provider.encrypt_under(4).await;
    provider.stop().await;
    fleet.assert_recovered().await;
}

#[tokio::test]
async fn a_new_node_adopts_a_key_that_another_instance_has_rotated() {
    let fleet = Fleet::new(1, 2).await;
    let mut fleet = fleet;
    fleet.lost = fleet.peers[0].peer(FAST);
    let denied = fleet.lost.refused().await;
    denied.assert_refused(5, &["recover-state"]);
    let evidence = fleet.live();
    let plan = fleet.plan(&evidence);
    fleet.apply(&evidence, &plan);
    fleet.assert_recovered().await;
    assert_eq!(fleet.lost.inspect()["stateGeneration"], 1);
    assert_eq!(fleet.lost.inspect()["activeTransitVersion"], json!(2));
}
