//! Every command that the program prints as a next step is run as printed, by root on a node that is
//! laid out as the package does it, against real servers. Then the command that printed it must no
//! longer report the cause.

mod bundle;
mod evidence;
mod key;
mod login;
mod node;
mod nodes;
mod openbao;
mod report;
mod restore;
mod rotation;
mod site;
mod snapshot;
mod state;

use std::collections::BTreeSet;

use kms_node::advice::catalogue;

use crate::installed;

/// Incidents, and the causes of which each runs every printed command.
macro_rules! incidents {
    ($($module:ident::$incident:ident: $($code:ident)+;)+) => {
        const EXECUTED: &[&str] = &[$($(stringify!($code)),+),+];

        mod incident {
            $(
                #[tokio::test]
                async fn $incident() {
                    super::$module::$incident().await;
                }
            )+
        }
    };
}

incidents! {
    node::a_configuration_that_is_missing: config_lost;
    node::a_configuration_with_an_invalid_setting: config_invalid;
    node::a_directory_that_others_can_write: node_misconfigured;
    node::a_process_that_holds_the_lock: state_locked;
    node::a_provider_that_is_stopped: not_running;
    node::a_provider_that_hangs: provider_unhealthy;
    node::a_socket_that_is_gone: socket_unusable;
    node::a_user_without_the_permissions_of_the_provider: not_permitted;
    node::files_that_the_provider_cannot_read: node_misconfigured;
    node::a_start_as_root: state_of_other_user;
    node::a_jwt_with_other_claims: jwt_claims;
    node::a_provider_that_cannot_log_in: provider_disconnected;
    node::a_provider_whose_probes_fail: provider_disconnected;
    node::a_bundle_that_the_provider_has_not_loaded: ca_bundle_outdated;
    node::a_probe_that_proves_too_little: process_unknown probe_unproven;
    node::a_socket_without_access: socket_denied;
    node::a_key_id_that_was_not_expected: key_id_unexpected;
    node::a_provider_without_openbao: provider_unavailable;
    node::a_listener_whose_port_is_taken: listener_unusable;
    node::a_socket_of_another_process: socket_not_opened;
    node::a_second_socket_of_another_process: legacy_socket_unusable;
    node::a_socket_unit_with_another_file: socket_unit_invalid;
    node::a_command_line_with_an_unknown_option: invalid_usage;
    openbao::a_server_that_is_not_there: openbao_unreachable;
    openbao::another_software_at_the_address: not_openbao;
    openbao::a_certificate_of_another_authority: openbao_untrusted;
    openbao::a_server_that_is_sealed: openbao_sealed;
    openbao::a_role_that_refuses_the_jwt: login_refused login_audience login_subject login_claims
        login_role_unsuitable login_role_missing login_address_excluded login_denied;
    openbao::a_login_method_that_refuses_the_jwt: login_issuer login_signature login_unconfigured
        login_mount_missing;
    openbao::a_namespace_without_the_login_method: login_mount_elsewhere login_namespace_missing;
    openbao::a_jwt_that_is_not_valid_yet_at_openbao: login_clock;
    openbao::limits_of_the_role: token_uses_limited token_addresses_limited;
    openbao::certificates_that_are_not_for_a_server: ca_as_server_certificate
        certificate_not_for_servers;
    openbao::a_bundle_without_a_line_feed: ca_bundle_glued;
    openbao::a_policy_that_grants_too_little_or_too_much: policy_insufficient
        mount_settings_denied policy_excessive;
    openbao::a_limit_of_the_rate: openbao_rate_limited;
    openbao::a_lease_that_is_too_short: lease_too_short;
    login::a_token_of_a_file_that_cannot_serve: token_file_rejected token_is_root token_ends;
    login::a_wrapped_secret_id_that_is_used_or_of_another_path: secret_id_intercepted
        secret_id_substituted;
    login::a_certificate_that_cannot_log_in: cert_expired cert_unsuitable login_certificate;
    login::a_standby_identity_in_use: fallback_in_use;
    key::settings_that_can_be_corrected: key_unusable upsert_allowed versions_below_minimum
        key_soft_deleted encryption_blocked;
    key::a_key_that_can_never_be_used: key_unfit;
    key::a_key_that_is_yet_to_be_created: key_absent first_installation;
    key::an_openbao_from_an_earlier_backup: openbao_rolled_back key_recreated key_lost
        versions_lost;
    state::a_state_that_is_lost_damaged_or_older: state_lost state_absent no_active_version
        state_corrupt state_rolled_back checkpoint_lost state_other_release state_of_preview state_planned
        state_rebuilt;
    state::a_directory_that_is_missing: state_directory_missing;
    state::a_state_with_a_wrong_mode_or_owner: state_too_open state_unreadable;
    state::a_state_that_was_replaced_under_its_provider: state_replaced;
    state::a_state_that_cannot_be_saved: state_unsaved_directory_gone state_unsaved;
    state::a_state_that_contradicts_the_key: state_key_conflict;
    evidence::objects_that_were_damaged: objects_damaged;
    evidence::values_that_are_damaged: values_damaged damaged_of_others;
    evidence::key_ids_without_a_version: key_ids_unknown set_unfit;
    evidence::keys_that_were_not_read: keys_unread;
    snapshot::an_etcd_snapshot_that_proves_too_little: snapshot_damaged source_unverified
        not_a_snapshot;
    snapshot::an_openbao_snapshot_that_proves_too_little: not_an_openbao_snapshot
        openbao_snapshot_damaged openbao_snapshot_unsigned;
    snapshot::backups_that_are_too_old: backups_outdated;
    nodes::a_node_that_does_not_answer: node_no_answer same_node;
    nodes::a_node_of_other_names: other_identity_on_nodes;
    nodes::nodes_with_two_keys: other_key;
    nodes::a_node_without_a_usable_state: no_state;
    nodes::nodes_at_different_versions: promotion_pending_on_nodes behind;
    nodes::a_node_that_reads_less_or_does_not_serve: missing_versions not_ready;
    installed::an_installation_that_was_edited: installation_edited;
    installed::a_node_with_other_files: node_file_differs node_unprepared start_order;
    installed::a_change_by_an_ordinary_user: root_required;
    restore::a_plan_without_evidence: no_evidence;
    restore::a_login_that_does_not_work: state_planned;
    restore::a_state_that_is_in_place: state_in_place option_unfit;
    restore::a_plan_that_is_applied_too_early_or_too_late: plan_outdated provider_running;
    restore::a_state_of_a_newer_release: state_other_release;
    restore::a_key_that_cannot_be_asked_or_used: key_unasked key_unusable;
    restore::objects_that_stay_unreadable: unreadable_objects deks_not_decrypted option_unfit;
    restore::a_promotion_that_is_not_known: option_unfit promotion_undecided;
    restore::minimums_that_hide_versions: version_unresolved state_in_place_unfit
        encryption_blocked active_unusable;
    restore::an_etcd_that_shows_too_little: keys_unread no_objects;
    restore::objects_of_other_names: other_identity;
    restore::a_key_that_is_not_that_of_the_evidence: versions_lost evidence_of_other_key
        state_ahead_of_openbao key_never_rotated;
    rotation::a_retirement_without_evidence_and_its_way_back: retirement_unchecked
        versions_changed removed_versions_needed versions_removed;
    rotation::versions_that_objects_need: versions_planned version_choice_invalid;
    rotation::objects_that_were_not_written_again: objects_rewritten keys_unread;
    rotation::a_node_that_has_not_followed_the_key: newest_version_not_promoted;
    rotation::a_node_without_a_state: no_active_version;
    rotation::sources_that_show_too_little: no_objects snapshot_damaged source_unverified
        key_ids_unknown;
}

/// Run by the tests of `extract`.
const BY_EXTRACT: &[&str] = &["no_object_selected", "dek_not_decrypted"];

/// Causes whose commands are run with a real kube-apiserver, by `extract.rs`, `migrate.rs`,
/// `rewrite.rs` and `rollout.rs` in `tests/kubernetes`.
const BY_KUBERNETES: &[&str] = &[
    "legacy_left",
    "otherwise_protected",
    "objects_under_older_versions",
    "versions_needed",
    "rewrite_planned",
    "rewrite_interrupted",
    "progress_invalid",
    "progress_of_other_rewrite",
    "nothing_selected",
    "migration_api_missing",
    "migration_failed",
    "policy_denied",
    "webhook_failed",
    "object_invalid",
    "rewrite_forbidden",
    "rewrite_unproven",
    "kubeconfig_unusable",
    "api_server_unreachable",
    "rollout_too_early",
    "rollout_unknown",
    "probe_not_stored",
    "another_etcd",
    "rollout_lagging",
    "rollout_unsafe",
    "api_servers_differ",
    "api_servers_unknown",
    "live_objects_different",
];

/// Causes whose commands are not run here, with the reason.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "release_formats_unreadable",
        "needs the program of another release; upgrade.rs runs the command with this one",
    ),
    ("release_refuses_configuration", "as above"),
    (
        "rollout_forbidden",
        "needs a user with few rights; its command is that of rewrite_forbidden",
    ),
    (
        "objects_unexplained",
        "its command is that of key_recreated; triage/evidence.rs stages it",
    ),
    (
        "mount_missing",
        "its command is that of login_mount_missing; pair.rs stages it",
    ),
    (
        "live_kubeconfig_unusable",
        "its command asks for the version; extract.rs stages it",
    ),
    (
        "live_object_forbidden",
        "its command is that of rewrite_forbidden; extract.rs stages it",
    ),
    (
        "live_object_unread",
        "its command is that of api_server_unreachable",
    ),
    (
        "rollout_keys_differ",
        "needs a promotion between two reads; its command is that of rollout_lagging",
    ),
    (
        "probe_left",
        "needs an API server that ends during a probe; its command deletes Secrets",
    ),
    (
        "api_server_overloaded",
        "needs an API server that limits requests for a minute",
    ),
    (
        "object_refused",
        "needs a refusal without a cause of its own",
    ),
    (
        "object_busy",
        "needs a writer that wins five times in a row",
    ),
    ("webhook_denied", "its command is that of webhook_failed"),
    (
        "object_too_large",
        "needs an object at the limit of etcd; its command is that of object_invalid",
    ),
    (
        "quota_exceeded",
        "needs a quota on updates; its command lists quotas",
    ),
    (
        "namespace_terminating",
        "needs kube-controller-manager; its command lists namespaces",
    ),
    (
        "etcd_full",
        "needs a full etcd; its command is that of object_invalid",
    ),
    (
        "object_unreadable",
        "needs an object without its key; its command is run for objects_damaged",
    ),
    (
        "object_not_encrypted",
        "needs a provider that fails for minutes; its command is triage",
    ),
    (
        "encryption_changed",
        "needs a rotation during a rewrite; its commands are those of progress_invalid",
    ),
    (
        "migration_not_started",
        "waits two minutes; its command is that of migration_failed",
    ),
    (
        "oauth_issuer_unreachable",
        "needs a real issuer; login/oauth_issuer.rs has one, and its commands only show the answer",
    ),
    ("oauth_issuer_untrusted", "as above"),
    ("oauth_response_unusable", "as above"),
    (
        "spiffe_agent_unreachable",
        "needs a real agent; login/spire.rs has one, and its command only shows the health",
    ),
    ("spiffe_agent_unavailable", "as above"),
    (
        "spiffe_socket_denied",
        "needs a real agent; login/spire.rs has one, and its command only shows modes",
    ),
    (
        "spiffe_response_unusable",
        "needs a real agent; login/spire.rs has one, and its command only shows the process",
    ),
    (
        "spiffe_no_identity",
        "its commands run on the SPIRE server; login/spire.rs creates the same entry",
    ),
    ("spiffe_other_identity", "as above"),
    (
        "spiffe_svid_claims",
        "needs a real agent; its command is that of jwt_claims",
    ),
    (
        "oauth_token_claims",
        "needs a real issuer; its command is that of jwt_claims",
    ),
    (
        "module_unloadable",
        "its command shows libraries; pkcs11-signer/tests stages it",
    ),
    (
        "module_failed",
        "its command shows tokens, by OpenSC; login/pkcs11.rs stages it",
    ),
    (
        "module_crashed",
        "its command shows libraries; login/pkcs11.rs stages it",
    ),
    (
        "token_helper_gone",
        "its command restarts the unit, which starts another helper",
    ),
    (
        "token_absent",
        "its command shows tokens, by OpenSC; login/pkcs11.rs removes one and puts it back",
    ),
    (
        "token_key_absent",
        "its command asks for the PIN; login/pkcs11.rs stages it",
    ),
    (
        "pin_last_try",
        "its command asks for the PIN; pkcs11-signer/tests stages it",
    ),
    (
        "installation_unusable",
        "its command asks for values; installed.rs stages it",
    ),
    (
        "node_change_failed",
        "its command repeats a step that failed by the disk or a program",
    ),
    (
        "image_missing",
        "its command loads an image; installed.rs runs it with a stand-in",
    ),
    (
        "start_not_ready",
        "needs a provider that takes longer than its checks",
    ),
    (
        "provider_in_use",
        "its command reads etcd; installed.rs stages it",
    ),
    (
        "deletion_unconfirmed",
        "its command deletes the state; installed.rs runs it",
    ),
    (
        "values_invalid",
        "its command shows the rules of the settings; a person corrects the values",
    ),
    (
        "state_disk_failing",
        "needs a disk that fails; disk.rs stages a full and a read-only one",
    ),
    (
        "state_disk_full",
        "its commands show the use of the disk; disk.rs frees space",
    ),
    (
        "state_disk_read_only",
        "its commands show the mount and the kernel's log; disk.rs mounts it again",
    ),
    ("socket_drifted", "restart.rs checks its commands"),
    (
        "active_removed",
        "needs three nodes that retired and promoted in a contradicting order",
    ),
    (
        "clock_wrong",
        "needs an OpenBao with another clock; all servers of a test share one",
    ),
    (
        "deks_untried",
        "needs an OpenBao that stops answering between two DEKs of one source",
    ),
    (
        "drill_no_loopback",
        "needs a network namespace whose loopback interface is down",
    ),
    (
        "etcd_unreachable",
        "needs compactions of etcd during several readings in a row",
    ),
    ("hardening_incomplete", "needs a kernel without Landlock"),
    (
        "healthy",
        "its commands ask kube-apiserver; provider/tests/kubernetes has one",
    ),
    (
        "key_changed",
        "needs a promotion between two calls of one probe",
    ),
    (
        "log_lines_dropped",
        "needs a log reader that stalls until its buffer overflows",
    ),
    (
        "newest_version_disabled",
        "needs a state in which the newest version is removed: no command makes one",
    ),
    (
        "not_this_provider",
        "needs another KMS plugin at the socket",
    ),
    (
        "other_provider",
        "needs two providers of one name and lineage with different keys",
    ),
    (
        "openbao_no_leader",
        "needs a raft cluster of OpenBao that lost its majority",
    ),
    (
        "part_ended",
        "needs a task of the provider that ends by itself",
    ),
    (
        "round_trip_wrong",
        "needs an OpenBao that returns wrong bytes",
    ),
    (
        "sandbox_outdated",
        "needs Landlock, and a directory that an agent replaces beside other files",
    ),
    (
        "state_not_saved",
        "needs a disk that fails between two writes of one command",
    ),
    (
        "state_unsaved_no_descriptors",
        "its command opens an editor",
    ),
];

#[test]
fn every_printed_command_is_run_or_has_a_reason() {
    let causes = catalogue().into_iter().flat_map(|(_, causes)| causes);
    let with_command = causes.filter(|cause| cause.steps.iter().any(|it| !it.command.is_empty()));
    let with_command: BTreeSet<_> = with_command.map(|cause| cause.code).collect();
    let kubernetes = [
        include_str!("../kubernetes/extract.rs"),
        include_str!("../kubernetes/migrate.rs"),
        include_str!("../kubernetes/rewrite.rs"),
        include_str!("../kubernetes/rollout.rs"),
    ]
    .concat();
    for code in BY_KUBERNETES {
        assert!(kubernetes.contains(code), "{code}");
    }
    let extract = include_str!("extract.rs");
    for code in BY_EXTRACT {
        assert!(extract.contains(code), "{code}");
    }
    let executed = EXECUTED.iter().chain(BY_KUBERNETES).chain(BY_EXTRACT);
    let executed: BTreeSet<_> = executed.copied().collect();
    let left_out: BTreeSet<_> = LEFT_OUT.iter().map(|(code, _)| *code).collect();
    let both: Vec<_> = executed.intersection(&left_out).collect();
    assert!(both.is_empty(), "run, and left out: {both:?}");
    let listed: BTreeSet<_> = executed.union(&left_out).copied().collect();
    let missing: Vec<_> = with_command.difference(&listed).collect();
    assert!(missing.is_empty(), "neither run nor left out: {missing:?}");
    let unknown: Vec<_> = listed.difference(&with_command).collect();
    assert!(unknown.is_empty(), "without a command: {unknown:?}");
    assert!(executed.len() * 10 > with_command.len() * 7);
}
