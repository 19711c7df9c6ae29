//! Causes of signed statements: made with `--attest`, verified by `verify-attestation`.

use super::{Cause, act, unknown};
use crate::exit::Exit;

const NOT_ATTESTED: &str = "a missing statement changes no data; the result of the command is the one \
    that it printed";
const REFUSED: &str = "a statement is evidence on backups; refusing it changes no data";

causes! {
    SIGNING_KEY_UNUSABLE = unknown(
        "signing_key_unusable",
        "the signing key cannot sign a statement",
        NOT_ATTESTED,
    )
    .exit(Exit::Unclassified)
    .steps(&[
        act(
            "give --sign-key a file with an unencrypted key of ECDSA P-256 (named curve, uncompressed \
             point) or Ed25519 as PEM in PKCS#8, as of `openssl genpkey`, with mode 0600",
        ),
        act(
            "give --sign-transit a Transit key of the type ecdsa-p256 or ed25519 with derived=false; \
             its policy needs read on MOUNT/keys/KEY and update on MOUNT/sign/KEY",
        ),
    ]);

    WITHOUT_SUBJECT = unknown(
        "attestation_without_subject",
        "the command read no file that a statement could be about",
        NOT_ATTESTED,
    )
    .exit(Exit::Unclassified)
    .steps(&[act(
        "give readable snapshots as files: a running etcd and a running OpenBao have no digest",
    )]);

    UNREADABLE = unknown(
        "attestation_unreadable",
        "the statement, the public key or a snapshot cannot be read",
        REFUSED,
    )
    .steps(&[act("correct the path or the permissions of the file, and run the command again")]);

    PUBLIC_KEY_UNUSABLE = unknown(
        "public_key_unusable",
        "the public key cannot verify a statement",
        REFUSED,
    )
    .steps(&[act(
        "give --key the public key of the signer: ECDSA P-256 or Ed25519 as PEM, as of `openssl pkey \
         -pubout`, or an Ed25519 key as Base64, as of Transit",
    )]);

    MALFORMED = unknown(
        "attestation_malformed",
        "the file is no statement of this program",
        REFUSED,
    )
    .exit(Exit::CheckFailed)
    .steps(&[act("give the file that --attest wrote, unchanged")]);

    INVALID_SIGNATURE = unknown(
        "attestation_signature_invalid",
        "the statement is not signed by the given key: it was changed, or another key signed it",
        REFUSED,
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act("compare the fingerprint of the public key with the one that the signer names"),
        act("use another copy of the statement, from a place that its writer cannot change"),
    ])
    .warnings(&["do not rely on this statement"]);

    OTHER_FILES = unknown(
        "attestation_of_other_files",
        "the statement is authentic, but about other files than the given snapshots",
        REFUSED,
    )
    .exit(Exit::CheckFailed)
    .steps(&[act(
        "give the snapshots exactly as the command had them: a packed, unpacked or changed file has \
         another digest",
    )])
    .warnings(&["do not take this statement as evidence for the given snapshots"]);

    HISTORY_UNVERIFIED = unknown(
        "history_unverified",
        "a statement in the directory is not signed by the given key, or cannot be read as one",
        REFUSED,
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act("compare the named files with another copy of the directory"),
        act("after a change of the signing key, give --key once for each key"),
    ])
    .warnings(&["do not rely on the named statements"]);

    CHAIN_BROKEN = unknown(
        "history_chain_broken",
        "the chain of statements is broken: a file was removed, changed or added",
        "statements are missing, so the history of the restore tests is incomplete",
    )
    .exit(Exit::CheckFailed)
    .steps(&[act("take the missing statements from another copy of the directory")])
    .warnings(&["do not rely on this directory as a complete history"]);

    HISTORY_MIXED = unknown(
        "history_mixed",
        "the statements are of several clusters or keys",
        "a proven restore of one cluster proves nothing about another",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act("keep the statements of each cluster and key in a directory of its own"),
        act("after a change of the configuration, let drill --attest begin a new directory, and keep \
             this one"),
    ]);

    HISTORY_CLOCK = unknown(
        "history_clock",
        "the clock of a drill was wrong: its time is later than now, or than that of a drill after it",
        "the time of a proven restore is unknown",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act("compare the clock of this host and that of the signer with another one"),
        act("once the clock is right, let drill --attest begin a new directory, and keep this one"),
    ]);

    HISTORY_GAP = unknown(
        "history_gap",
        "the time between proven restores was above --max-age",
        "in that time no restore of the backups was proven",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act("see the verdicts of the failed drills, or the log of the timer"),
        act("if a drill does not count because of its backups, find out why the backup job saved no \
             newer ones"),
        act("run a drill with the newest backups"),
    ]);

    HISTORY_EMPTY = unknown(
        "history_empty",
        "the directory has no statement of a proven restore that counts",
        "no restore of the backups is proven by this directory",
    )
    .exit(Exit::CheckFailed)
    .steps(&[act("give the directory of drill --attest, and run a drill")]);
}
