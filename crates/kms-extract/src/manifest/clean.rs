//! Removes the members that the API server and its controllers have set, so that the object can be
//! created again.

use super::{
    find,
    node::{Members, Node},
};

/// Members of the metadata that the API server sets.
const SERVER_SET: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// The annotation in which `kubectl apply` repeats the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Annotations of volumes and claims about the binding of both.
const BINDING: [&str; 2] = [
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
];
/// Labels that the API server gives to the pods of a Job.
const OF_JOB: [&str; 4] = [
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
];

/// Removes them, and returns a text for each owner.
pub(super) fn clean(members: &mut Members<'_>) -> Vec<String> {
    members.retain(|(name, _)| name.as_str() != "status");
    let kind = find(members, "kind").and_then(|it| it.text().map(str::to_owned));
    let kind = kind.unwrap_or_default();
    if let Some(spec) = map(members, "spec") {
        match kind.as_str() {
            "Job" => clean_job(spec),
            // With the `uid` of a claim that exists no more, the controller deletes the volume and its data.
            "PersistentVolume" => forget_identity(spec, "claimRef"),
            "StatefulSet" => clean_claims(spec),
            "VolumeSnapshotContent" => forget_identity(spec, "volumeSnapshotRef"),
            _ => {}
        }
    }
    let Some(metadata) = map(members, "metadata") else {
        return Vec::new();
    };
    if let Some(annotations) = map(metadata, "annotations") {
        let is_volume = matches!(kind.as_str(), "PersistentVolume" | "PersistentVolumeClaim");
        annotations.retain(|(name, _)| {
            let name = name.as_str();
            name != LAST_APPLIED && !(is_volume && BINDING.contains(&name))
        });
    }
    let owners = owners(metadata);
    metadata.retain(|(name, value)| {
        let name = name.as_str();
        let emptied = matches!(value, Node::Map(members) if members.is_empty());
        let is_left_out = SERVER_SET.contains(&name) || (name == "annotations" && emptied);
        !is_left_out
    });
    owners
}

fn owners(metadata: &mut Members<'_>) -> Vec<String> {
    let Some(Node::List(references)) = find(metadata, "ownerReferences") else {
        return Vec::new();
    };
    let owners = references.iter().map(|owner| {
        let text = |name| owner.get(name).and_then(Node::text).unwrap_or_default();
        let [kind, name, version] = ["kind", "name", "apiVersion"].map(text);
        format!("{kind} {name} of {version}")
    });
    owners.collect()
}

/// The object that a reference names is created again, with another `uid`.
fn forget_identity(spec: &mut Members<'_>, reference: &str) {
    if let Some(reference) = map(spec, reference) {
        reference.retain(|(name, _)| !["resourceVersion", "uid"].contains(&name.as_str()));
    }
}

/// The selector and the labels that contain the `uid` of the Job, which refuses them when it is created.
fn clean_job(spec: &mut Members<'_>) {
    if matches!(find(spec, "manualSelector"), Some(Node::Bool(true))) {
        return;
    }
    spec.retain(|(name, _)| name.as_str() != "selector");
    let labels = map(spec, "template")
        .and_then(|template| map(template, "metadata"))
        .and_then(|metadata| map(metadata, "labels"));
    if let Some(labels) = labels {
        labels.retain(|(name, _)| !OF_JOB.contains(&name.as_str()));
    }
}

/// What the API server adds to the templates of claims when it reads them.
fn clean_claims(spec: &mut Members<'_>) {
    let Some(Node::List(claims)) = find(spec, "volumeClaimTemplates") else {
        return;
    };
    for claim in claims {
        if let Node::Map(claim) = claim {
            claim.retain(|(name, _)| !["apiVersion", "kind", "status"].contains(&name.as_str()));
        }
    }
}

fn map<'n, 'a>(members: &'n mut Members<'a>, name: &str) -> Option<&'n mut Members<'a>> {
    match find(members, name)? {
        Node::Map(members) => Some(members),
        _ => None,
    }
}
