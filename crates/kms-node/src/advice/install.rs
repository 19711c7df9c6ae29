//! Causes of the commands that bring a node from an installation to a running provider.

use super::{Cause, act, at_risk, none_lost, run, unknown};
use crate::exit::Exit;

const UNCHANGED: &str = "this node is unchanged";

causes! {
    UNUSABLE = none_lost(
        "installation_unusable",
        "the directory has no usable installation of init",
        UNCHANGED,
    )
    .exit(Exit::Configuration)
    .steps(&[
        act("name the directory that init wrote, with all of its files"),
        run(
            "at a first installation, make it",
            "bao-kms-provider init --new-key --out openbao-kms",
        ),
    ])
    .warnings(&["do not make a new key for a cluster with encrypted objects"]);

    EDITED = none_lost(
        "installation_edited",
        "files of the installation differ from those that init wrote",
        "this node is unchanged; the files depend on each other and are the same on every node",
    )
    .exit(Exit::Configuration)
    .steps(&[run(
        "make all files again from the edited configuration, and use that directory",
        "bao-kms-provider init --values {directory}/config.yaml{options} --out {directory}-2",
    )]);

    ROOT_REQUIRED = none_lost("root_required", "changes of this node need root", UNCHANGED)
        .exit(Exit::Unclassified)
        .steps(&[run("run it as root", "sudo {again}")]);

    GIVEN_UNUSABLE = none_lost(
        "given_file_unusable",
        "a file of --ca or --credential is unreadable, or has the name of no credential",
        UNCHANGED,
    )
    .exit(Exit::Usage)
    .steps(&[act("give each credential the name of its destination")]);

    PACKAGE_MISSING = none_lost(
        "package_missing",
        "the systemd unit of the provider is not installed on this node",
        "only the package is missing",
    )
    .steps(&[
        act("install the package of bao-kms-provider, then run the command again"),
    ]);

    FILE_DIFFERS = none_lost(
        "node_file_differs",
        "existing files or directories of this node differ from the installation, and are kept",
        "nothing was changed, also none of the other steps",
    )
    .steps(&[
        run("compare {path} with the installation", "diff {path} {made}"),
        run(
            "if the installation is right, move the present one away",
            "mv --backup=numbered {path} {aside}",
        ),
        run("then run the command again", "{again}"),
    ])
    .warnings(&[
        "do not give a node that serves a configuration with another identity fingerprint: stored \
         objects become unreadable on it",
    ]);

    FILES_AWAITED = none_lost(
        "node_files_awaited",
        "files of the operator are missing on this node: the CA certificate or the credential",
        "the provider starts once they exist",
    );

    UNPREPARED = none_lost(
        "node_unprepared",
        "this node is not prepared",
        "nothing was started",
    )
    .steps(&[run("make the missing steps", "sudo bao-kms-provider node prepare {directory} --apply")]);

    CHANGE_FAILED = none_lost(
        "node_change_failed",
        "a step on this node failed",
        "the steps before it are complete, and a second run continues after them",
    )
    .exit(Exit::Unclassified)
    .steps(&[run("correct the cause above, then continue", "{again}")]);

    OTHER_INSTALLATION = none_lost(
        "other_installation",
        "the configuration of this node has another identity than the installation",
        "nothing was changed",
    )
    .exit(Exit::Configuration)
    .steps(&[
        act("name the installation of this cluster, or correct {config} if this node is new"),
    ])
    .warnings(&["do not change the identity of a node that has served: stored objects become unreadable"]);

    START_ORDER = none_lost(
        "start_order",
        "the unit does not start before the service that runs kube-apiserver",
        "kube-apiserver retries after a boot until the provider is ready",
    )
    .steps(&[run(
        "order the unit before it",
        "mkdir -p /etc/systemd/system/{unit}.service.d && printf '[Unit]\\nBefore={service}\\n' \
         >/etc/systemd/system/{unit}.service.d/order.conf && systemctl daemon-reload",
    )]);

    IMAGE_MISSING = none_lost(
        "image_missing",
        "the image of the static pod is not loaded on this node",
        "nothing was started",
    )
    .steps(&[run("load it, while the registry is reachable", "crictl pull {image}")]);

    NOT_READY = unknown(
        "start_not_ready",
        "the provider did not become ready in time, and all checks of its causes passed",
        "its start may still be in progress",
    )
    .exit(Exit::CheckFailed)
    .steps(&[run("wait longer", "{again}")]);

    IN_USE = at_risk(
        "provider_in_use",
        "kube-apiserver on this node still has this provider in its EncryptionConfiguration",
        "without the provider this kube-apiserver neither reads nor writes the objects of the provider",
    )
    .steps(&[
        run(
            "see the objects that need the provider; on a node of kubeadm its certificates are found",
            "bao-kms-provider scan-etcd --endpoints 127.0.0.1:2379 --show-names",
        ),
        act(
            "when no object needs it, take its kms entry out of the EncryptionConfiguration, restart \
             kube-apiserver, and run the command again",
        ),
    ])
    .warnings(&["do not remove the provider from its last node while an object needs it"]);

    UNCONFIRMED = none_lost(
        "deletion_unconfirmed",
        "the deletion of the state is not confirmed by the fingerprint of the installation",
        "nothing was removed",
    )
    .exit(Exit::Usage)
    .steps(&[run(
        "if the state of this node is to be deleted, confirm it",
        "{again} --confirm {fingerprint}",
    )])
    .warnings(&[
        "do not delete the state of the last node while an object needs the key: its copy in a backup \
         is then required",
    ]);
}
