//! Causes found through the Kubernetes API. `{again}` is the command
//! line, `{progress}` the progress file of a rewrite, `{plan}` and
//! `{plain}` the command line without `--storage-version-migration`.

use super::{Cause, Step, act, none_lost, run, unknown};
use crate::exit::Exit;

const UNCHANGED: &str = "each object is stored as before, and readable";
const NO_NEXT_PHASE: &str = "do not begin the next phase on any API server before this is settled";
const AGAIN: Step = run("then run the command again", "{again}");

causes! {
    KUBECONFIG_UNUSABLE = none_lost(
        "kubeconfig_unusable",
        "the kubeconfig or its credentials cannot be used",
        "the API server was not asked",
    )
    .exit(Exit::Runtime)
    .steps(&[
        act("name another file with --kubeconfig, or another context with --context"),
        run("show the contexts", "kubectl config get-contexts"),
    ]);

    UNVERIFIED = none_lost(
        "api_server_unverified",
        "the kubeconfig accepts any certificate, so the API server cannot be verified",
        "no request was sent",
    )
    .exit(Exit::Runtime)
    .steps(&[act(
        "replace insecure-skip-tls-verify by certificate-authority in the kubeconfig",
    )]);

    UNREACHABLE = none_lost(
        "api_server_unreachable",
        "the API server cannot be reached",
        "the objects in etcd are unaffected",
    )
    .exit(Exit::Runtime)
    .steps(&[
        run("see whether the API server is ready", "kubectl get --raw '/readyz?verbose'"),
        AGAIN,
    ]);

    UNAUTHENTICATED = none_lost(
        "api_credentials_refused",
        "the API server refuses the credentials of the kubeconfig",
        "no object was read or written",
    )
    .exit(Exit::Runtime)
    .steps(&[act("renew the credentials of the kubeconfig, and run the command again")]);

    FORBIDDEN = none_lost(
        "rewrite_forbidden",
        "the user of the kubeconfig may not list or patch a resource",
        "its objects are stored as before, and readable",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        run("see the rights of this user", "kubectl auth can-i --list"),
        act("grant list and patch with the ClusterRole of docs/operate/rewrite.md"),
        AGAIN,
    ]);

    OVERLOADED = none_lost(
        "api_server_overloaded",
        "the API server limits requests, or is too slow to answer",
        "objects that were not written are stored as before",
    )
    .exit(Exit::Runtime)
    .steps(&[run("continue at a lower rate", "{slower}")]);

    REFUSED = none_lost(
        "object_refused",
        "the API server refuses the write for another reason",
        "the refused objects are stored as before",
    )
    .steps(&[
        act("read the reason in the log of kube-apiserver: this command hides it, as it may quote a Secret"),
        AGAIN,
    ]);

    CONFLICT = none_lost(
        "object_busy",
        "an object is written by others all the time",
        "each of these writes stores it under the key of the API server",
    )
    .steps(&[AGAIN]);

    WEBHOOK_DENIED = none_lost(
        "webhook_denied",
        "an admission webhook denies the write",
        UNCHANGED,
    )
    .steps(&[
        run("find the webhook", "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations"),
        act("let the webhook accept an update that changes nothing, or exempt this user while it runs"),
        AGAIN,
    ]);

    WEBHOOK_FAILED = none_lost(
        "webhook_failed",
        "an admission webhook gives no answer",
        UNCHANGED,
    )
    .steps(&[
        run("find its service", "kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations -o wide"),
        act("bring the service of the webhook back"),
        AGAIN,
    ]);

    POLICY_DENIED = none_lost(
        "policy_denied",
        "a ValidatingAdmissionPolicy denies the write",
        UNCHANGED,
    )
    .steps(&[
        run("find the policy", "kubectl get validatingadmissionpolicies,validatingadmissionpolicybindings"),
        act("let the policy accept an update that changes nothing, or exclude the object in its binding"),
        AGAIN,
    ]);

    OBJECT_INVALID = none_lost(
        "object_invalid",
        "an object breaks the present rules of its resource",
        UNCHANGED,
    )
    .steps(&[
        act("correct the object, or loosen the schema of its CustomResourceDefinition while it is written"),
        AGAIN,
    ]);

    OBJECT_TOO_LARGE = none_lost(
        "object_too_large",
        "an object is too large to be stored again",
        UNCHANGED,
    )
    .steps(&[
        act("make the object smaller, or raise --max-request-bytes of etcd while it is written"),
        AGAIN,
    ]);

    QUOTA_EXCEEDED = none_lost("quota_exceeded", "a ResourceQuota refuses the write", UNCHANGED)
        .steps(&[
            run("find the quota", "kubectl get resourcequotas --all-namespaces"),
            AGAIN,
        ]);

    NAMESPACE_TERMINATING = none_lost(
        "namespace_terminating",
        "the namespace of an object is under deletion",
        "the object is removed with its namespace",
    )
    .steps(&[
        run("find the namespaces that do not end", "kubectl get namespaces --field-selector status.phase=Terminating"),
        AGAIN,
    ]);

    ETCD_FULL = none_lost(
        "etcd_full",
        "etcd refuses writes, because its space is used up",
        "reads continue",
    )
    .exit(Exit::Runtime)
    .steps(&[
        act("compact and defragment etcd, then disarm its alarm NOSPACE"),
        AGAIN,
    ]);

    OBJECT_UNREADABLE = unknown(
        "object_unreadable",
        "the API server cannot decrypt an object",
        "its key or its provider may be missing on this API server",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        run("find the keys that objects need", "bao-kms-provider scan-etcd --etcd-snapshot FILE --show-names"),
        AGAIN,
    ])
    .warnings(&[super::KEEP_ETCD]);

    NOT_ENCRYPTED = none_lost(
        "object_not_encrypted",
        "the API server cannot encrypt: its KMS provider fails",
        UNCHANGED,
    )
    .exit(Exit::Runtime)
    .steps(&[
        run("on the node of this API server: find the cause", "bao-kms-provider triage"),
        AGAIN,
    ]);

    NOTHING_SELECTED = none_lost(
        "nothing_selected",
        "the API server serves none of the named resources",
        "nothing was written",
    )
    .steps(&[
        run("see the names of all resources", "kubectl api-resources --output name"),
    ]);

    PROGRESS_INVALID = none_lost(
        "progress_invalid",
        "the progress file is damaged, or of another release",
        "nothing was written by this run",
    )
    .steps(&[
        run("remove the file", "rm {progress}"),
        run("then begin again", "{again}"),
    ]);

    PROGRESS_OF_OTHER = none_lost(
        "progress_of_other_rewrite",
        "the progress file belongs to another cluster, namespace or encryption",
        "objects of that rewrite may be unfinished, and nothing was written by this one",
    )
    .steps(&[
        act("name another file with --progress, if that rewrite is to be continued later"),
        run("otherwise remove the file", "rm {progress}"),
        run("and begin again", "{again}"),
    ]);

    PROGRESS_UNSAVED = none_lost(
        "progress_unsaved",
        "the progress file cannot be written",
        "nothing was written without a record of it",
    )
    .exit(Exit::Runtime)
    .steps(&[act("name a file in a writable directory with --progress, and run the command again")]);

    ENCRYPTION_CHANGED = unknown(
        "encryption_changed",
        "the key or the EncryptionConfiguration of the API server changed during the rewrite",
        "some objects were written with the encryption from before the change",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act("wait until all API servers have the same EncryptionConfiguration and the same key_id"),
        run("remove the progress file", "rm -f {progress}"),
        run("rewrite again", "{again}"),
    ]);

    SERVERS_DIFFER = none_lost(
        "api_servers_differ",
        "API servers of the cluster have different keys or EncryptionConfigurations",
        "each object is readable as before; one that a lagging API server writes keeps an old key",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act(
            "give every API server the same EncryptionConfiguration, and after a rotation wait a few \
             minutes until all have the same key_id",
        ),
        AGAIN,
    ])
    .warnings(&["do not retire the old key, and do not remove its provider, before the rewrite is proven"]);

    SERVERS_UNKNOWN = unknown(
        "api_servers_unknown",
        "API servers of the cluster were not compared",
        "one of them may write with another key",
    )
    .exit(Exit::Success)
    .steps(&[
        act(
            "name the own address of each API server with --server, or let the user of the kubeconfig \
             list the leases in kube-system and the endpoint slices in default",
        ),
        run("then compare all: objects with the present encryption stay as they are", "{again}"),
    ])
    .warnings(&["do not retire the old key, and do not remove its provider, before the proof"]);

    INTERRUPTED = none_lost(
        "rewrite_interrupted",
        "the rewrite was interrupted",
        "objects that were not reached are stored as before",
    )
    .exit(Exit::Runtime)
    .steps(&[run("continue where it ended", "{again}")]);

    RESISTED = none_lost(
        "objects_resisted",
        "objects were not written again",
        "they are stored as before; their old key stays necessary",
    )
    .warnings(&["do not retire the old key, and do not remove its provider, before the rewrite is proven"]);

    UNPROVEN = unknown(
        "rewrite_unproven",
        "the API server accepted each object, and etcd was not read",
        "another API server may still write with another key",
    )
    .exit(Exit::Success)
    .steps(&[
        run(
            "prove the stored form on a control-plane node",
            "bao-kms-provider verify-rotation --endpoints 127.0.0.1:2379",
        ),
    ])
    .warnings(&["do not retire the old key, and do not remove its provider, before the proof"]);

    PLANNED = none_lost(
        "rewrite_planned",
        "the objects to rewrite were counted",
        "nothing was written",
    )
    .exit(Exit::Success)
    .steps(&[run("rewrite them", "{apply}")]);

    NO_MIGRATION_API = none_lost(
        "migration_api_missing",
        "the API server does not serve StorageVersionMigration",
        "no migration was created",
    )
    .exit(Exit::CheckFailed)
    .steps(&[run("rewrite with patches, the default", "{plan}")]);

    MIGRATION_NOT_STARTED = none_lost(
        "migration_not_started",
        "no controller works on the StorageVersionMigration",
        "its objects are stored as before",
    )
    .exit(Exit::Runtime)
    .steps(&[
        act("enable the feature gate StorageVersionMigrator in kube-controller-manager"),
        run("or rewrite with patches, the default", "{plain}"),
    ]);

    MIGRATION_FAILED = none_lost(
        "migration_failed",
        "a StorageVersionMigration failed",
        "objects that were not migrated are stored as before",
    )
    .steps(&[
        run("read its conditions", "kubectl get storageversionmigrations --output yaml"),
        run("rewrite with patches instead: failures are listed by object", "{plain}"),
    ]);

    ROLLOUT_FORBIDDEN = none_lost(
        "rollout_forbidden",
        "the user of the kubeconfig may not read the metrics, or not create a Secret for the probe",
        "nothing was changed",
    )
    .exit(Exit::Runtime)
    .steps(&[
        run("see the rights of this user", "kubectl auth can-i --list"),
        act("grant the ClusterRole of docs/operate/rollout.md"),
    ]);

    ROLLOUT_UNKNOWN = unknown(
        "rollout_unknown",
        "the phase of an API server is unknown",
        "an API server may be unable to read what another one writes",
    )
    .steps(&[
        act("name the KMS provider with --provider, if API servers have several"),
        act("give the own address of each API server with --server, never that of a load balancer"),
        act("let the user of the kubeconfig list the leases in kube-system: they name the API servers"),
        act("give the etcd of the cluster with --endpoints, if an API server is older than Kubernetes 1.32"),
        run("then examine all of them again", "{again}"),
    ])
    .warnings(&[NO_NEXT_PHASE]);

    ANOTHER_ETCD = none_lost(
        "another_etcd",
        "the running etcd is not that of the API server",
        "nothing was written",
    )
    .exit(Exit::Runtime)
    .steps(&[
        act("give the etcd of --etcd-servers of this API server with --endpoints"),
        act("if its command line has --etcd-prefix, give the same prefix with --etcd-prefix"),
        act("if its --etcd-servers-overrides moves leases, leave --endpoints out, and run verify-rotation afterwards"),
        run("then begin again", "{again}"),
    ]);

    PROBE_NOT_STORED = unknown(
        "probe_not_stored",
        "a Secret that an API server wrote is not in this etcd",
        "another etcd has the objects of this API server",
    )
    .steps(&[
        act("give the etcd of --etcd-servers of this API server with --endpoints, or that of Secrets in its --etcd-servers-overrides"),
        act("if its command line has --etcd-prefix, give the same prefix with --etcd-prefix"),
        run("then examine all API servers again", "{again}"),
    ])
    .warnings(&[NO_NEXT_PHASE]);

    ROLLOUT_UNSAFE = none_lost(
        "rollout_unsafe",
        "an API server cannot read what another one writes",
        "etcd keeps each object, and its writer reads it; reads through {readers} fail for objects \
         of {writers}",
    )
    .steps(&[
        act("give {readers} the EncryptionConfiguration of the phase of readers now"),
        run("if it is there already: on that node, find the fault of its provider", "bao-kms-provider triage"),
        run("then examine all of them again", "{again}"),
    ])
    .warnings(&[
        NO_NEXT_PHASE,
        "do not delete objects that an API server cannot read: another one reads them",
    ]);

    ROLLOUT_LAGGING = none_lost(
        "rollout_lagging",
        "API servers are in different phases",
        "each API server reads what the others write",
    )
    .steps(&[
        act("bring {lagging} to the phase {phase}, one after another"),
        run("then examine all of them again", "{again}"),
    ])
    .warnings(&[NO_NEXT_PHASE]);

    ROLLOUT_KEYS_DIFFER = none_lost(
        "rollout_keys_differ",
        "the API servers use different versions of the key",
        "each version decrypts; a promotion reaches every API server within minutes",
    )
    .steps(&[run("wait until they agree", "{again}")])
    .warnings(&[NO_NEXT_PHASE]);

    ROLLOUT_TOO_EARLY = none_lost(
        "rollout_too_early",
        "the cluster is not ready for this step",
        "each API server reads what the others write",
    )
    .steps(&[
        act("finish the step {next} first"),
        run("then examine all API servers again", "{again}"),
    ])
    .warnings(&[NO_NEXT_PHASE]);

    PROBE_LEFT = none_lost(
        "probe_left",
        "Secrets of the probe could not be deleted",
        "they are empty",
    )
    .steps(&[run("delete them", "kubectl delete secret --ignore-not-found --namespace {namespace} {secrets}")]);
}
