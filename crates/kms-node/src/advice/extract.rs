//! Causes of an extraction of single objects.

use super::{Cause, Step, act, lost, none_lost, run, unknown};
use crate::exit::Exit;

const NOTHING_WRITTEN: &str = "nothing was written, and the stored data is unchanged";
const LIST: Step = run(
    "list the objects below the prefix",
    "bao-kms-provider extract {etcd} --resource '*' --list",
);

/// The steps after the files are written. `kubectl apply` would keep members that were added later, and
/// refuses objects of more than 256 KiB.
pub const CREATE: Step = run(
    "read the manifests, then create the objects that are missing in the cluster",
    "kubectl create -f {directory}",
);
/// See [`CREATE`].
pub const REPLACE: Step = run(
    "replace those that are different there, if their content of the backup is the wanted one",
    "kubectl replace -f {directory}",
);

causes! {
    LIVE_OBJECTS_DIFFERENT = none_lost(
        "live_objects_different",
        "objects of the backup are missing in the live cluster, or different there",
        "the backup has these objects, and they open",
    )
    .steps(&[
        run(
            "write their manifests",
            "bao-kms-provider extract {etcd} {selection} --output-dir recovered --config {config}",
        ),
        act("read each manifest before you apply it: a different live object may be the newer one"),
    ]);

    OBJECT_NOT_AUTHENTIC = lost(
        "object_not_authentic",
        "an object does not open under its etcd key: it was moved, or its data was changed",
        "this object needs an earlier backup of etcd; the key is present, and other objects are \
         readable",
    )
    .steps(&[
        act("leave the object out by --name, or take an earlier etcd snapshot"),
    ])
    .warnings(&["do not edit values in etcd"]);

    DEK_NOT_DECRYPTED = unknown(
        "dek_not_decrypted",
        "OpenBao decrypts no DEK of a selected version: the objects were changed, or the key is another one",
        "the objects were not opened; whether they are lost is not proven",
    )
    .exit(Exit::CheckFailed)
    .steps(&[run(
        "decide it with every object in etcd",
        "bao-kms-provider verify-backup {etcd} --depth data --config {config}",
    )])
    .warnings(&["do not delete these objects, and do not change the key in OpenBao"]);

    OTHER_ENCRYPTION = unknown(
        "other_encryption",
        "an object is encrypted by another provider of the EncryptionConfiguration",
        "the object was not opened",
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        act(
            "give the EncryptionConfiguration with the key of aescbc, aesgcm or secretbox: \
             --encryption-config FILE",
        ),
        act("leave objects of another KMS plugin out by --name"),
    ]);

    OBJECT_NOT_YAML = unknown(
        "object_not_yaml",
        "an object cannot be written as YAML, so standard output would lack it",
        NOTHING_WRITTEN,
    )
    .exit(Exit::CheckFailed)
    .steps(&[act(
        "write the objects into a directory, where this one is a file of its stored bytes: --output-dir",
    )]);

    LIVE_KUBECONFIG_UNUSABLE = unknown(
        "live_kubeconfig_unusable",
        "the kubeconfig of --diff or its credentials cannot be used",
        NOTHING_WRITTEN,
    )
    .exit(Exit::Runtime)
    .steps(&[
        run(
            "see whether kubectl can use it",
            "KUBECONFIG={kubeconfig} kubectl get --raw /version",
        ),
        act("give another file with --diff, whose current context is used"),
    ]);

    LIVE_FORBIDDEN = unknown(
        "live_object_forbidden",
        "the user of the kubeconfig may not read an object of the selection in the live cluster",
        NOTHING_WRITTEN,
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        run(
            "see the rights of this user",
            "KUBECONFIG={kubeconfig} kubectl auth can-i --list",
        ),
        act("grant get on the resource, or give another file with --diff"),
    ]);

    LIVE_UNREAD = unknown(
        "live_object_unread",
        "the API server gave no usable answer for an object of the selection",
        NOTHING_WRITTEN,
    )
    .exit(Exit::Runtime)
    .steps(&[
        run(
            "see whether the API server is ready",
            "KUBECONFIG={kubeconfig} kubectl get --raw '/readyz?verbose'",
        ),
        act("then run the command again"),
    ]);

    KEYS_UNUSABLE = unknown(
        "local_keys_unusable",
        "the file of --encryption-config cannot be read, or is no EncryptionConfiguration",
        NOTHING_WRITTEN,
    )
    .steps(&[act("give the file of --encryption-provider-config of kube-apiserver, as its owner")]);

    NOTHING_SELECTED = unknown(
        "no_object_selected",
        "no object in etcd fits the selection",
        NOTHING_WRITTEN,
    )
    .exit(Exit::CheckFailed)
    .steps(&[
        LIST,
        act("take a snapshot from before the deletion of the object"),
        act("compare --etcd-prefix with that of kube-apiserver (without it: /registry)"),
    ]);

    SELECTION_TOO_LARGE = unknown(
        "selection_too_large",
        "the selected objects are too large to be opened together",
        NOTHING_WRITTEN,
    )
    .exit(Exit::CheckFailed)
    .steps(&[act("select fewer objects, such as one namespace after another")]);

    REVISION_MISSING = unknown(
        "revision_missing",
        "etcd does not have the requested revision",
        NOTHING_WRITTEN,
    )
    .exit(Exit::CheckFailed)
    .steps(&[act("take a snapshot from between the write and the deletion of the object")]);

    DIRECTORY_UNUSABLE = unknown(
        "output_directory_unusable",
        "the output directory is not new or empty, belongs to another user, or cannot be written",
        NOTHING_WRITTEN,
    )
    .exit(Exit::Unclassified)
    .steps(&[act("name a new directory with --output-dir, on a file system with free space")]);
}
