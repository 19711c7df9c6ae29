use std::collections::BTreeMap;

use super::*;
use crate::{
    recovery::{
        pair::{Finding, Proof},
        record::{LimitsInfo, Note, StateInfo, VersionInfo},
        resolve::{Claimed, Resolution, ResolveError},
    },
    registry::Record,
    vectors::{self, created_at, document, version},
};
use RecordState::{Active, Pending, Removed, Retired};

fn key(number: u64) -> Arc<TransitKey> {
    let scope = Arc::new(KeyScope::new(vectors::golden_scope()));
    let created_at = created_at(number);
    Arc::new(TransitKey::new(scope, version(number), created_at))
}

/// A node without files and evidence, and a sound key with versions 1 to `latest`.
fn nothing(latest: u64) -> Evidence {
    Evidence {
        scope: Arc::new(KeyScope::new(vectors::golden_scope())),
        path: vectors::path("transit", "kubernetes-etcd"),
        key: vectors::sound_profile(latest, 0, 1),
        own: OwnFiles {
            document: Found::Nothing,
            checkpoint: Found::Nothing,
        },
        replace: None,
        etcd: Vec::new(),
        records: Vec::new(),
        peers: Vec::new(),
        not_promoted: None,
        accepted: None,
    }
}

/// Three objects; unreadable if `origin` is an error.
fn finding(origin: Resolution) -> EtcdFinding {
    let (proven, unreadable) = match &origin {
        Resolution::Unresolved(_) => (0, BTreeMap::from([("secrets".to_owned(), 3)])),
        Resolution::Live(_) | Resolution::Known(_) => (1, BTreeMap::new()),
    };
    EtcdFinding {
        finding: Finding {
            origin,
            objects: 3,
            seeds: Proof {
                proven,
                ..Proof::default()
            },
            data: None,
        },
        unreadable,
        names: Vec::new(),
    }
}

fn gap(gap: ResolveError) -> EtcdFinding {
    finding(Resolution::Unresolved(gap))
}

/// Objects of the version; OpenBao refuses the DEK of `refused` of them.
fn partly_refused(number: u64, proven: u64, refused: u64) -> EtcdFinding {
    let mut found = finding(Resolution::Live(key(number)));
    found.finding.seeds = Proof {
        proven,
        failed: 1,
        untried: 0,
    };
    found.unreadable = BTreeMap::from([("secrets".to_owned(), refused)]);
    found
}

fn accepting(evidence: &Evidence, number: u64) -> Evidence {
    Evidence {
        accepted: NonZeroU64::new(number),
        ..evidence.clone()
    }
}

fn etcd(versions: &[u64]) -> EtcdEvidence {
    let live = |number: &u64| finding(Resolution::Live(key(*number)));
    EtcdEvidence {
        name: "snapshot".to_owned(),
        content: "sha256".to_owned(),
        findings: versions.iter().map(live).collect(),
        superseded: Vec::new(),
        damaged: 0,
        doubts: Vec::new(),
        sample: None,
    }
}

fn peer(states: &[(u64, RecordState)]) -> PeerEvidence {
    let document = document(states);
    PeerEvidence {
        name: "peer".to_owned(),
        checkpoint: Some(Checkpoint::of(&document)),
        document,
    }
}

fn record(states: &[(u64, Option<RecordState>)]) -> RecordEvidence {
    let versions = states.iter().map(|&(number, state)| {
        let noted = VersionInfo {
            key: key(number),
            decryptable: true,
            state,
        };
        (version(number), noted)
    });
    let note = Note {
        recorded_at: "2024-05-15T20:00:00Z".to_owned(),
        plugin_version: "v1".to_owned(),
        versions: versions.collect::<BTreeMap<_, _>>(),
        scope: Arc::new(KeyScope::new(vectors::golden_scope())),
        path: vectors::path("transit", "kubernetes-etcd"),
        state: StateInfo {
            generation: Generation::new(41).unwrap(),
            hash: document(&[(7, Active)]).hash().clone(),
            checkpoint: "current".to_owned(),
        },
        limits: LimitsInfo {
            latest: version(9),
            min_available: 0,
            min_decryption: 1,
            min_encryption: 0,
        },
        etcd: None,
        openbao: None,
    };
    RecordEvidence {
        name: "record".to_owned(),
        record: BackupRecord::new(note).unwrap(),
    }
}

fn states(plan: &RebuildPlan) -> Vec<(u64, RecordState)> {
    let records = plan.next().registry().records().iter();
    let states = records.map(|Record { key, state, .. }| (key.version().get(), *state));
    states.collect()
}

fn codes(evidence: &Evidence) -> Vec<&'static str> {
    match rebuild(evidence) {
        Ok(plan) => panic!("{:?}", states(&plan)),
        Err(refusals) => refusals.all().iter().map(PlanBlocker::code).collect(),
    }
}

fn limits(plan: &RebuildPlan) -> Vec<&'static str> {
    plan.limitations().iter().map(Limitation::code).collect()
}

#[test]
fn the_key_alone_rebuilds_nothing() {
    assert_eq!(codes(&nothing(5)), ["no_evidence"]);
}

#[test]
fn etcd_shows_the_active_version_and_all_that_decrypts_is_retired() {
    let evidence = Evidence {
        etcd: vec![etcd(&[2, 4])],
        ..nothing(4)
    };
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(
        states(&plan),
        [(4, Active), (3, Retired), (2, Retired), (1, Retired)]
    );
    assert_eq!(plan.next().generation(), Generation::FIRST);
    assert_eq!(plan.next().previous_hash(), None);
    assert_eq!(plan.link(), &Link::Nothing);
    assert_eq!(plan.active_shown_by(), ["snapshot"]);
    assert_eq!(limits(&plan), ["no_lower_bound"]);
    let again = Document::decode(plan.next().encode().as_bytes()).unwrap();
    assert_eq!(&again, plan.next());
}

#[test]
fn a_peer_or_a_record_gives_the_active_version_and_the_lower_bound() {
    let peers = vec![peer(&[(3, Active), (2, Retired), (1, Removed)])];
    let from_peer = Evidence {
        peers: peers.clone(),
        ..nothing(3)
    };
    let plan = rebuild(&from_peer).unwrap();
    // Decryptable versions stay in the state, although the peer removed them.
    assert_eq!(states(&plan), [(3, Active), (2, Retired), (1, Retired)]);
    let removed_by: Vec<_> = plan.versions()[2].removed_by().collect();
    assert_eq!(removed_by, ["peer"]);
    assert_eq!(plan.next().generation().get(), 2);
    assert_eq!(plan.next().previous_hash(), Some(peers[0].document.hash()));
    assert_eq!(plan.link(), &Link::Evidence("peer".to_owned()));
    assert_eq!(limits(&plan), ["no_etcd", "other_chain"]);

    let states_of = [(2, Some(Active)), (1, None)];
    let from_record = Evidence {
        records: vec![record(&states_of)],
        peers,
        ..nothing(3)
    };
    let plan = rebuild(&from_record).unwrap();
    assert_eq!(plan.next().registry().active().version(), version(3));
    assert_eq!(plan.next().generation().get(), 42);
    assert_eq!(plan.active_shown_by(), ["peer"]);
}

#[test]
fn the_highest_promotion_that_anything_shows_decides() {
    for (etcd_versions, peer_active, recorded, own, active) in [
        (vec![5], 4, 3, 2, 5),
        (vec![1], 5, 3, 2, 5),
        (vec![1], 2, 5, 3, 5),
        (vec![1], 2, 3, 5, 5),
    ] {
        let evidence = Evidence {
            etcd: vec![etcd(&etcd_versions)],
            peers: vec![peer(&[(peer_active, Active)])],
            records: vec![record(&[(recorded, Some(Active))])],
            own: OwnFiles {
                document: Found::Valid(document(&[(own, Active)])),
                checkpoint: Found::Valid(Checkpoint::of(&document(&[(9, Active)]))),
            },
            ..nothing(5)
        };
        let plan = rebuild(&evidence).unwrap();
        let found = plan.next().registry().active().version();
        assert_eq!(found, version(active), "{etcd_versions:?}");
    }
}

#[test]
fn a_version_beyond_all_evidence_is_in_question_until_it_is_assumed_not_promoted() {
    let mut evidence = Evidence {
        etcd: vec![etcd(&[3])],
        peers: vec![peer(&[(4, Pending), (3, Active)])],
        ..nothing(6)
    };
    let refusals = rebuild(&evidence).unwrap_err();
    let [
        PlanBlocker::Undecided {
            versions, active, ..
        },
    ] = refusals.all()
    else {
        panic!("{refusals}");
    };
    assert_eq!(
        (versions.to_string(), active.get()),
        ("versions 4 to 6".to_owned(), 3)
    );
    assert_eq!(refusals.all()[0].evidence(), ["peer", "snapshot"]);

    evidence.not_promoted = Some(version(5));
    let refusals = rebuild(&evidence).unwrap_err().to_string();
    assert!(
        refusals.contains("has version 4 beyond version 3"),
        "{refusals}"
    );

    evidence.not_promoted = Some(version(4));
    let plan = rebuild(&evidence).unwrap();
    // The watcher adds the later versions as pending.
    assert_eq!(states(&plan), [(3, Active), (2, Retired), (1, Retired)]);
    assert_eq!(limits(&plan), ["assumed", "other_chain"]);

    evidence.not_promoted = Some(version(3));
    assert_eq!(codes(&evidence), ["assumption_wrong"]);
    evidence.not_promoted = Some(version(7));
    assert_eq!(codes(&evidence), ["assumption_idle", "undecided"]);
}

#[test]
fn a_surviving_checkpoint_anchors_the_chain() {
    let lost = document(&[(3, Active)]);
    let evidence = Evidence {
        peers: vec![peer(&[(3, Active)])],
        records: vec![record(&[(3, Some(Active))])],
        own: OwnFiles {
            document: Found::Damaged {
                content: TextHash::of("x"),
            },
            checkpoint: Found::Valid(Checkpoint::of(&lost)),
        },
        ..nothing(3)
    };
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(plan.next().previous_hash(), Some(lost.hash()));
    assert_eq!(plan.link(), &Link::Checkpoint);
    let anchored = CheckpointStatus::of(Some(plan.next()), evidence.own.checkpoint.valid());
    assert_eq!(anchored, Ok(CheckpointStatus::Behind));
}

#[test]
fn a_valid_state_is_given_up_only_by_its_hash_and_its_active_version_stays() {
    let own = document(&[(3, Active), (2, Removed)]);
    let mut evidence = Evidence {
        etcd: vec![etcd(&[2])],
        own: OwnFiles {
            document: Found::Valid(own.clone()),
            checkpoint: Found::Valid(Checkpoint::of(&own)),
        },
        ..nothing(3)
    };
    assert_eq!(codes(&evidence), ["state_in_place"]);
    evidence.replace = Some(document(&[(1, Active)]).hash().clone());
    assert_eq!(codes(&evidence), ["other_state"]);
    evidence.replace = Some(own.hash().clone());
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(states(&plan), [(3, Active), (2, Retired), (1, Retired)]);
    assert_eq!(plan.next().previous_hash(), Some(own.hash()));
    assert_eq!(plan.link(), &Link::Replaced);
    evidence.own.document = Found::Nothing;
    evidence.etcd = vec![etcd(&[3])];
    assert_eq!(codes(&evidence), ["nothing_to_replace"]);
}

#[test]
fn a_state_without_its_checkpoint_is_evidence_but_not_by_itself() {
    let lost = document(&[(2, Active), (1, Retired)]);
    let records = lost.registry().records().to_vec();
    let fingerprint = lost.fingerprint().unwrap().clone();
    let first = Some((lost.generation(), lost.hash().clone()));
    let own = Document::rebuilt(fingerprint, first, records).unwrap();
    let mut evidence = Evidence {
        own: OwnFiles {
            document: Found::Valid(own.clone()),
            checkpoint: Found::Nothing,
        },
        ..nothing(2)
    };
    assert_eq!(codes(&evidence), ["no_evidence"]);
    evidence.etcd = vec![etcd(&[1])];
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(states(&plan), [(2, Active), (1, Retired)]);
    assert_eq!(plan.active_shown_by(), [OWN_STATE]);
    assert_eq!(plan.next().previous_hash(), Some(own.hash()));
    // A first document needs no checkpoint. A damaged checkpoint implies later documents.
    evidence.own.document = Found::Valid(lost);
    assert_eq!(codes(&evidence), ["state_in_place"]);
    evidence.own.checkpoint = Found::Damaged {
        content: TextHash::of("x"),
    };
    assert!(rebuild(&evidence).is_ok());
}

#[test]
fn what_openbao_does_not_decrypt_is_carried_as_removed_if_nothing_needs_it() {
    let hides_two = || Evidence {
        key: vectors::sound_profile(4, 0, 3),
        ..nothing(4)
    };
    let retired = || vec![peer(&[(4, Active), (3, Retired), (2, Retired)])];
    let from_peer = Evidence {
        peers: retired(),
        ..hides_two()
    };
    assert_eq!(codes(&from_peer), ["unresolved"]);
    let running = EtcdEvidence {
        content: String::new(),
        ..etcd(&[3, 4])
    };
    // The creation second of version 1 is unknown.
    for (source, left_open) in [
        (running, &["left_out", "other_chain"][..]),
        (etcd(&[3, 4]), &["unneeded_then", "left_out", "other_chain"]),
    ] {
        let with_etcd = Evidence {
            peers: retired(),
            etcd: vec![source],
            ..hides_two()
        };
        let plan = rebuild(&with_etcd).unwrap();
        assert_eq!(states(&plan), [(4, Active), (3, Retired), (2, Removed)]);
        assert_eq!(limits(&plan), left_open);
    }
    let removed = Evidence {
        peers: vec![peer(&[(4, Active), (2, Removed), (1, Removed)])],
        ..hides_two()
    };
    let plan = rebuild(&removed).unwrap();
    assert_eq!(
        states(&plan),
        [(4, Active), (3, Retired), (2, Removed), (1, Removed)]
    );
    assert_eq!(limits(&plan), ["no_etcd", "other_chain"]);
    // The others outweigh a source older than the restoration of the version.
    let outdated = Evidence {
        peers: vec![peer(&[(4, Active), (3, Retired), (2, Retired)])],
        records: vec![record(&[(4, Some(Active)), (2, Some(Removed))])],
        ..hides_two()
    };
    assert_eq!(codes(&outdated), ["unresolved"]);
    let own_word = Evidence {
        peers: vec![peer(&[(4, Active)])],
        own: OwnFiles {
            document: Found::Valid(document(&[(4, Active), (2, Removed)])),
            checkpoint: Found::Damaged {
                content: TextHash::of("x"),
            },
        },
        ..hides_two()
    };
    assert_eq!(codes(&own_word), ["unresolved"]);
}

#[test]
fn another_provider_of_the_key_shows_what_is_needed_and_no_promotion() {
    let others = |number| {
        let mut source = etcd(&[2]);
        source.findings.push(finding(Resolution::Unresolved(
            ResolveError::OtherProvider {
                version: version(number),
                provider: "another".to_owned(),
            },
        )));
        source
    };
    let evidence = Evidence {
        etcd: vec![others(3)],
        ..nothing(3)
    };
    assert_eq!(codes(&evidence), ["undecided"]);
    let needed = Evidence {
        etcd: vec![others(1)],
        ..nothing(2)
    };
    let plan = rebuild(&needed).unwrap();
    assert_eq!(states(&plan), [(2, Active), (1, Retired)]);
    assert_eq!(plan.versions()[1].objects, [("snapshot".to_owned(), 3)]);
    assert_eq!(limits(&plan), ["other_provider", "no_lower_bound"]);
}

#[test]
fn what_was_read_in_doubt_is_said_and_is_part_of_the_plan() {
    let sound = Evidence {
        etcd: vec![etcd(&[2])],
        ..nothing(2)
    };
    let mut doubtful = sound.clone();
    doubtful.etcd[0].doubts = vec!["there is no hash".to_owned()];
    let (sound, doubtful) = (rebuild(&sound).unwrap(), rebuild(&doubtful).unwrap());
    assert_eq!(limits(&doubtful), ["doubtful", "no_lower_bound"]);
    assert_eq!(
        doubtful.limitations()[0].to_string(),
        "snapshot: there is no hash"
    );
    assert_ne!(sound.hash(), doubtful.hash());
}

#[test]
fn what_etcd_needs_must_decrypt() {
    let gap = ResolveError::Trimmed {
        version: version(1),
        minimum: 2,
    };
    let mut source = etcd(&[2]);
    source.findings.push(finding(Resolution::Unresolved(gap)));
    let evidence = Evidence {
        key: vectors::sound_profile(2, 2, 2),
        etcd: vec![source],
        peers: vec![peer(&[(2, Active), (1, Removed)])],
        ..nothing(2)
    };
    assert_eq!(codes(&evidence), ["trimmed", "unreadable_objects"]);

    let seeds = |seeds, sample| {
        let mut source = etcd(&[2]);
        source.findings[0].finding.seeds = seeds;
        source.findings[0].unreadable = BTreeMap::from([("secrets".to_owned(), 1)]);
        source.sample = sample;
        let etcd = vec![source];
        rebuild(&Evidence { etcd, ..nothing(2) })
    };
    let proof = |proven, failed, untried| Proof {
        proven,
        failed,
        untried,
    };
    let refused = |made: Result<RebuildPlan, PlanBlockers>| made.unwrap_err().all()[0].code();
    let some = NonZeroU64::new(1);
    assert_eq!(refused(seeds(proof(1, 1, 0), None)), "not_decrypted");
    assert_eq!(refused(seeds(proof(1, 1, 0), some)), "not_decrypted");
    assert_eq!(refused(seeds(proof(1, 0, 1), None)), "untried");
    assert_eq!(refused(seeds(proof(0, 0, 1), some)), "untried");
    let plan = seeds(proof(1, 0, 1), some).unwrap();
    assert_eq!(limits(&plan), ["sampled", "no_lower_bound"]);
}

#[test]
fn evidence_of_another_key_or_cluster_is_named_each() {
    let another_path = vectors::path("transit", "other-key");
    let foreign = Document::first(
        IdentityFingerprint::of(&vectors::golden_scope(), &another_path),
        vectors::registry(&[(2, Active)]),
    );
    let unanchored = PeerEvidence {
        name: "unanchored".to_owned(),
        document: document(&[(2, Active)]),
        checkpoint: None,
    };
    let rolled_back = PeerEvidence {
        name: "rolled back".to_owned(),
        document: document(&[(2, Active)]),
        checkpoint: Some(Checkpoint::of(&document(&[(1, Active)]))),
    };
    let mut of_other_key = record(&[(2, Some(Active))]);
    let note = Note {
        path: another_path,
        ..of_other_key.record.note().clone()
    };
    of_other_key.record = BackupRecord::new(note).unwrap();
    let evidence = Evidence {
        etcd: vec![EtcdEvidence {
            name: "empty".to_owned(),
            ..etcd(&[])
        }],
        peers: vec![
            PeerEvidence {
                name: "foreign".to_owned(),
                checkpoint: Some(Checkpoint::of(&foreign)),
                document: foreign,
            },
            unanchored,
            rolled_back,
        ],
        records: vec![of_other_key],
        ..nothing(2)
    };
    let refusals = rebuild(&evidence).unwrap_err();
    let told: Vec<_> = refusals
        .all()
        .iter()
        .map(|refusal| (refusal.evidence()[0].as_str(), refusal.code()))
        .collect();
    assert_eq!(
        told,
        [
            ("foreign", "other_identity"),
            ("unanchored", "peer_unanchored"),
            ("rolled back", "peer_no_pair"),
            ("record", "other_identity"),
            ("empty", "no_objects"),
        ]
    );
}

#[test]
fn a_recreated_or_older_key_is_refused_by_every_witness() {
    let evidence = Evidence {
        key: vectors::profile(&[(1, 1), (2, 20)], 0, 1),
        peers: vec![peer(&[(2, Active), (1, Retired)])],
        records: vec![record(&[(3, Some(Active)), (2, Some(Retired))])],
        ..nothing(2)
    };
    assert_eq!(
        codes(&evidence),
        [
            "creation_time_mismatch",
            "newer_than_latest",
            "creation_time_mismatch"
        ]
    );
}

#[test]
fn the_active_version_must_decrypt_and_encrypt() {
    let blocked = Evidence {
        key: vectors::blocking_profile(3, 3),
        peers: vec![peer(&[(2, Active)])],
        not_promoted: Some(version(3)),
        ..nothing(3)
    };
    assert_eq!(codes(&blocked), ["active_blocked"]);
    let hidden = Evidence {
        key: vectors::sound_profile(3, 0, 3),
        ..blocked
    };
    assert_eq!(codes(&hidden), ["active_unusable"]);
}

#[test]
fn an_unusable_active_version_hides_no_further_reason() {
    let evidence = Evidence {
        key: vectors::sound_profile(4, 0, 4),
        peers: vec![peer(&[(3, Active), (2, Retired), (1, Removed)])],
        ..nothing(4)
    };
    assert_eq!(
        codes(&evidence),
        ["undecided", "active_unusable", "unresolved"]
    );
}

#[test]
fn unreadable_objects_block_a_rebuild_until_their_exact_number_is_accepted() {
    let trimmed = ResolveError::Trimmed {
        version: version(1),
        minimum: 2,
    };
    let other_key = ResolveError::CreationTimeMismatch {
        version: version(3),
        live: created_at(3),
        recorded: None,
    };
    let mut source = etcd(&[2]);
    source.findings.extend([
        partly_refused(3, 1, 2),
        gap(trimmed),
        gap(other_key),
        gap(ResolveError::IdentityMismatch { names: Vec::new() }),
    ]);
    let evidence = Evidence {
        key: vectors::sound_profile(3, 2, 2),
        etcd: vec![source],
        peers: vec![peer(&[(3, Active), (2, Retired), (1, Retired)])],
        ..nothing(3)
    };
    let each = [
        "not_decrypted",
        "trimmed",
        "creation_time_mismatch",
        "identity_mismatch",
    ];
    let refused = [&each[..], &["unreadable_objects"]].concat();
    assert_eq!(codes(&evidence), refused);
    for wrong in [1, 10, 12] {
        assert_eq!(codes(&accepting(&evidence, wrong)), refused, "{wrong}");
    }
    let refusals = rebuild(&accepting(&evidence, 1)).unwrap_err();
    assert!(
        refusals
            .all()
            .iter()
            .all(PlanBlocker::is_settled_by_acceptance)
    );
    let said = refusals.to_string();
    assert!(said.contains("11 objects stay unreadable"), "{said}");
    assert!(said.contains("instead of the accepted 1"), "{said}");

    let plan = rebuild(&accepting(&evidence, 11)).unwrap();
    // Objects of a deleted version do not keep it in use.
    assert_eq!(states(&plan), [(3, Active), (2, Retired), (1, Removed)]);
    // The live version 3 differs from the version 3 of another key, under which objects were
    // written.
    assert_eq!(plan.versions()[0].objects, [("snapshot".to_owned(), 3)]);
    let limited = ["unreadable"; 4].into_iter().chain(["other_chain"]);
    assert_eq!(limits(&plan), limited.collect::<Vec<_>>());
    let counts: Vec<_> = plan.unreadable().iter().map(|it| it.objects()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 11);
    let said = plan.limitations().iter().map(ToString::to_string);
    assert!(said.collect::<String>().contains(
        "snapshot: 2 objects of version 3 stay unreadable (not_decrypted), as accepted: secrets 2"
    ));

    // The same number of other objects is another plan.
    let mut moved = evidence;
    moved.etcd[0].findings[1] = partly_refused(3, 1, 3);
    moved.etcd[0].findings[2].unreadable = BTreeMap::from([("secrets".to_owned(), 2)]);
    let moved = rebuild(&accepting(&moved, 11)).unwrap();
    assert_eq!(moved.next(), plan.next());
    assert_ne!(moved.hash(), plan.hash());
}

#[test]
fn objects_are_accepted_only_beside_proof_of_the_active_version() {
    let all_refused = |number| {
        let mut source = etcd(&[]);
        source.findings = vec![partly_refused(number, 0, 3)];
        Evidence {
            etcd: vec![source],
            ..nothing(2)
        }
    };
    // Without proof, acceptance is not offered either.
    assert_eq!(codes(&all_refused(2)), ["not_decrypted"]);
    assert_eq!(
        codes(&accepting(&all_refused(2), 3)),
        ["not_decrypted", "active_unproven"]
    );
    // The key is unproven by a peer alone.
    let with_peer = Evidence {
        peers: vec![peer(&[(2, Active), (1, Retired)])],
        ..accepting(&all_refused(2), 3)
    };
    assert_eq!(codes(&with_peer), ["not_decrypted", "active_unproven"]);
    // A DEK of a lower version proves the key, but leaves the promotion open.
    let mut lower = accepting(&all_refused(2), 3);
    lower.etcd[0]
        .findings
        .push(finding(Resolution::Live(key(1))));
    assert_eq!(codes(&lower), ["not_decrypted", "active_unproven"]);
    // A replaced revision proves the promotion.
    lower.etcd[0].superseded = vec![Resolution::Live(key(2))];
    assert_eq!(
        states(&rebuild(&lower).unwrap()),
        [(2, Active), (1, Retired)]
    );
    // Peer and DEK together are sufficient.
    lower.peers = with_peer.peers;
    let plan = rebuild(&lower).unwrap();
    assert_eq!(states(&plan), [(2, Active), (1, Retired)]);
}

#[test]
fn nothing_is_accepted_that_is_hidden_or_was_not_tried_or_is_not_there() {
    let hidden = ResolveError::Hidden {
        version: version(1),
        minimum: 2,
        claimed: Claimed::Yes,
    };
    let mut source = etcd(&[2]);
    source.findings.push(gap(hidden));
    let mut evidence = Evidence {
        key: vectors::sound_profile(2, 0, 2),
        etcd: vec![source],
        ..nothing(2)
    };
    assert_eq!(codes(&evidence), ["hidden"]);
    assert_eq!(
        codes(&accepting(&evidence, 3)),
        ["hidden", "acceptance_idle"]
    );
    // It stays blocked beside accepted objects.
    evidence.etcd[0].findings.push(partly_refused(2, 1, 1));
    assert_eq!(codes(&accepting(&evidence, 1)), ["hidden"]);

    let mut sampled = Evidence {
        etcd: vec![etcd(&[2])],
        ..nothing(2)
    };
    sampled.etcd[0].findings[0] = partly_refused(2, 1, 1);
    sampled.etcd[0].findings[0].finding.seeds.untried = 1;
    sampled.etcd[0].sample = NonZeroU64::new(2);
    let refusals = rebuild(&sampled).unwrap_err();
    assert!(matches!(
        refusals.all(),
        [
            PlanBlocker::NotDecrypted { .. },
            PlanBlocker::Unreadable { sampled: true, .. }
        ]
    ));
    assert_eq!(codes(&accepting(&sampled, 1)), ["untried"]);
}

#[test]
fn a_version_that_openbao_has_lost_is_accepted_unless_a_state_or_record_names_it() {
    let newer = ResolveError::NewerThanLatest {
        version: version(3),
        latest: version(2),
        recorded: None,
    };
    let mut source = etcd(&[2]);
    source.findings.push(gap(newer));
    let mut evidence = Evidence {
        etcd: vec![source],
        ..nothing(2)
    };
    assert_eq!(
        codes(&evidence),
        ["newer_than_latest", "unreadable_objects"]
    );
    let plan = rebuild(&accepting(&evidence, 3)).unwrap();
    assert_eq!(states(&plan), [(2, Active), (1, Retired)]);
    assert_eq!(
        limits(&plan),
        ["unreadable", "lost_promotion", "no_lower_bound"]
    );
    evidence.peers = vec![peer(&[(3, Active), (2, Retired)])];
    assert_eq!(
        codes(&accepting(&evidence, 3)),
        ["newer_than_latest", "newer_than_latest", "active_unproven"]
    );
}

#[test]
fn another_keys_objects_make_no_version_active() {
    let other_key = ResolveError::CreationTimeMismatch {
        version: version(3),
        live: created_at(3),
        recorded: None,
    };
    let mut source = etcd(&[2]);
    source.findings.push(gap(other_key));
    let evidence = Evidence {
        etcd: vec![source],
        not_promoted: Some(version(3)),
        ..nothing(3)
    };
    let plan = rebuild(&accepting(&evidence, 3)).unwrap();
    assert_eq!(states(&plan)[0], (2, Active));
}

#[test]
fn a_removed_or_left_version_never_becomes_active() {
    let mut evidence = Evidence {
        etcd: vec![etcd(&[2])],
        peers: vec![peer(&[(3, Active), (2, Removed)])],
        not_promoted: Some(version(3)),
        ..nothing(3)
    };
    assert_eq!(codes(&evidence), ["assumption_wrong"]);
    evidence.not_promoted = None;
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(states(&plan)[0], (3, Active));
    // A record has the same effect.
    evidence.not_promoted = Some(version(3));
    evidence.peers.clear();
    evidence.records = vec![record(&[(3, Some(Active)), (2, Some(Removed))])];
    assert_eq!(codes(&evidence), ["assumption_wrong"]);
    // A state is contradictory if it has a version as removed and a lower one as active.
    evidence.records = vec![record(&[(2, Some(Removed)), (1, Some(Active))])];
    evidence.peers = vec![peer(&[(2, Removed), (1, Active)])];
    assert_eq!(codes(&evidence), ["active_removed", "active_removed"]);
}

#[test]
fn a_superseded_revision_shows_a_promotion() {
    let mut source = etcd(&[2]);
    source.superseded = vec![Resolution::Live(key(3))];
    let mut evidence = Evidence {
        etcd: vec![source],
        not_promoted: Some(version(3)),
        ..nothing(3)
    };
    assert_eq!(codes(&evidence), ["assumption_wrong"]);
    evidence.not_promoted = None;
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(states(&plan)[0], (3, Active));
    assert_eq!(plan.active_shown_by(), ["snapshot"]);
    // It may be undecryptable, and is of a version that cannot be active.
    evidence.key = vectors::sound_profile(2, 0, 1);
    let lost = |number| {
        Resolution::Unresolved(ResolveError::NewerThanLatest {
            version: version(number),
            latest: version(2),
            recorded: None,
        })
    };
    evidence.etcd[0].superseded = vec![lost(3), lost(4)];
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(states(&plan)[0], (2, Active));
    assert_eq!(limits(&plan), ["lost_promotion", "no_lower_bound"]);
    assert!(
        plan.limitations()[0]
            .to_string()
            .contains("version 4 was promoted")
    );
}

#[test]
fn a_history_that_needs_rotations_is_noted_beside_a_key_that_was_never_rotated() {
    let fingerprint = document(&[(1, Active)]).fingerprint().unwrap().clone();
    let records = document(&[(1, Active)]).registry().records().to_vec();
    let hash = document(&[(1, Active)]).hash().clone();
    let after = |generation| {
        let previous = Some((Generation::new(generation).unwrap(), hash.clone()));
        Document::rebuilt(fingerprint.clone(), previous, records.clone()).unwrap()
    };
    let left = |document: &Document| OwnFiles {
        document: Found::Nothing,
        checkpoint: Found::Valid(Checkpoint::of(document)),
    };
    let mut evidence = Evidence {
        own: left(&after(4)),
        peers: vec![peer(&[(1, Active)])],
        ..nothing(1)
    };
    assert_eq!(codes(&evidence), ["never_rotated"]);
    evidence.etcd = vec![etcd(&[1])];
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(limits(&plan), ["never_rotated"]);
    assert!(
        plan.limitations()[0]
            .to_string()
            .contains("accepts generation 5")
    );
    evidence.own = left(&document(&[(1, Active)]));
    evidence.etcd.clear();
    assert_eq!(limits(&rebuild(&evidence).unwrap()), ["no_etcd"]);
}

#[test]
fn the_same_evidence_gives_the_same_plan_and_other_evidence_another() {
    let evidence = Evidence {
        etcd: vec![etcd(&[2])],
        ..nothing(2)
    };
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(rebuild(&evidence), Ok(plan.clone()));
    let reviewed = plan.hash().clone();
    assert!(plan.clone().confirm(&reviewed).is_ok());
    let mut other = evidence.clone();
    other.etcd[0].content = "another file".to_owned();
    let moved = rebuild(&other).unwrap();
    assert_eq!(moved.next(), plan.next());
    let outdated = moved.confirm(&reviewed).unwrap_err();
    assert_eq!(outdated.expected, reviewed);
    let mut other = evidence;
    other.own.document = Found::Damaged {
        content: TextHash::of("x"),
    };
    assert_ne!(rebuild(&other).unwrap().hash(), plan.hash());
}

#[test]
fn a_wild_version_number_costs_nothing() {
    let far = i64::MAX - 1;
    let number = far.unsigned_abs();
    let scope = Arc::new(KeyScope::new(vectors::golden_scope()));
    let active = TransitKey::new(scope, version(number), created_at(number));
    let mut source = etcd(&[]);
    source.findings = vec![finding(Resolution::Live(Arc::new(active)))];
    let evidence = Evidence {
        key: vectors::profile(&[(far, far)], 0, 1),
        etcd: vec![source],
        ..nothing(1)
    };
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(limits(&plan), ["left_out", "no_lower_bound"]);
}

#[test]
fn bookkeeping_comes_from_whoever_knows_it() {
    let (rotated, text) = vectors::pair("rotated");
    let path = vectors::path("transit", "kubernetes-etcd");
    let fingerprint = IdentityFingerprint::of(&vectors::golden_scope(), &path);
    let records = rotated.registry().records().to_vec();
    let document = Document::rebuilt(fingerprint, None, records.clone()).unwrap();
    assert!(text.contains("promotedAtUnix"));
    let seconds = |number| {
        let found = records.iter().find(|r| r.key.version() == version(number));
        i64::try_from(found.unwrap().key.created_at().get()).unwrap()
    };
    let evidence = Evidence {
        key: vectors::profile(&[(1, seconds(1)), (2, seconds(2))], 0, 1),
        peers: vec![PeerEvidence {
            name: "peer".to_owned(),
            checkpoint: Some(Checkpoint::of(&document)),
            document,
        }],
        ..nothing(2)
    };
    let plan = rebuild(&evidence).unwrap();
    assert_eq!(plan.next().registry().records(), records);
}

/// The state of a preview with these records, and its checkpoint.
fn of_preview(states: &[(u64, RecordState)]) -> (Document, Checkpoint) {
    let legacy = Document::unbound(vectors::registry(states));
    let checkpoint = Checkpoint::of(&legacy);
    (legacy, checkpoint)
}

#[test]
fn the_state_of_a_preview_is_evidence_of_the_active_version() {
    let (legacy, checkpoint) = of_preview(&[(2, Active), (1, Retired)]);
    let mut evidence = nothing(2);
    evidence.own.document = Found::Legacy(legacy.clone());
    evidence.own.checkpoint = Found::Valid(checkpoint.clone());
    let plan = rebuild(&evidence).unwrap();
    let next = plan.next();
    assert_eq!(next.registry().active().version(), version(2));
    assert_eq!(next.registry().records(), legacy.registry().records());
    assert_eq!(next.generation().get(), 2);
    assert_eq!(next.previous_hash(), Some(legacy.hash()));
    assert!(next.fingerprint().is_some());
    assert_eq!(plan.active_shown_by(), [OWN_STATE]);
    let codes: Vec<_> = plan.limitations().iter().map(Limitation::code).collect();
    assert_eq!(codes, ["no_etcd", "unbound"]);

    // Without its checkpoint only a first generation is known to be the newest.
    evidence.own.checkpoint = Found::Nothing;
    assert!(rebuild(&evidence).is_ok());
    let content = TextHash::of("damaged");
    evidence.own.checkpoint = Found::Damaged { content };
    let refused = rebuild(&evidence).unwrap_err();
    assert!(refused.all().contains(&PlanBlocker::NoEvidence));

    // A rotation since then.
    evidence.own.checkpoint = Found::Valid(checkpoint);
    evidence.key = vectors::sound_profile(3, 0, 1);
    let refused = rebuild(&evidence).unwrap_err();
    assert!(
        matches!(refused.all(), [PlanBlocker::Undecided { .. }]),
        "{refused:?}"
    );
}

#[test]
fn the_state_of_a_preview_of_another_cluster_or_key_is_refused() {
    let (legacy, checkpoint) = of_preview(&[(1, Active)]);
    let mut evidence = nothing(1);
    evidence.own.document = Found::Legacy(legacy);
    evidence.own.checkpoint = Found::Valid(checkpoint);
    assert!(rebuild(&evidence).is_ok());

    let mut names = vectors::golden_scope();
    names.cluster_id = crate::scope::ClusterId::parse("workload-b").unwrap();
    let other = Evidence {
        scope: Arc::new(KeyScope::new(names)),
        ..evidence.clone()
    };
    let refused = rebuild(&other).unwrap_err();
    let other_identity = |it: &PlanBlocker| matches!(it, PlanBlocker::OtherIdentity { .. });
    assert!(refused.all().iter().any(other_identity), "{refused:?}");

    evidence.key = vectors::profile(&[(1, 99)], 0, 1);
    let refused = rebuild(&evidence).unwrap_err();
    let recreated = |it: &PlanBlocker| matches!(it, PlanBlocker::Recreated { .. });
    assert!(refused.all().iter().any(recreated), "{refused:?}");
}
