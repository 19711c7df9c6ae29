//! Picture of a rotation: the objects of each source by resource and version, and the history of the
//! versions.

use std::{collections::BTreeSet, time::Duration};

use kms_domain::{registry::Registry, transit::KeyProfile};
use kms_node::report::picture::{Column, Condition, Grid, Picture, Rating};

use crate::recovery::{
    evidence::SourceRead,
    evidence_report::{states, uses},
    picture::{add_profile, add_registry},
};

const ACTIVE: Condition = Condition::new(Rating::Good, "active");
const OLDER: Condition = Condition::new(Rating::Odd, "to rewrite");
const NEWER: Condition = Condition::new(Rating::Plain, "newer");
const UNKNOWN: Condition = Condition::new(Rating::Bad, "unknown");
const UNPROTECTED: Condition = Condition::new(Rating::Odd, "otherwise");

/// The versions of this node and of the key.
pub(super) fn history(
    registry: Option<&Registry>,
    profile: Option<&KeyProfile>,
    activation_delay: Duration,
) -> Picture {
    let mut picture = Picture::default();
    if let Some(profile) = profile {
        add_profile(&mut picture, profile);
    }
    let Some(registry) = registry else {
        return picture;
    };
    add_registry(&mut picture, registry);
    for (version, state) in states(registry) {
        let state = format!("{} on this node", state.as_str());
        picture.add_need(version.get(), state);
    }
    if let Some(pending) = registry.pending()
        && let Some(second) = pending.bookkeeping.promotes_after(activation_delay)
    {
        let version = pending.key.version();
        picture.add_event(second, format!("earliest promotion of version {version}"));
    }
    picture
}

/// The objects of the sources.
pub(super) fn objects(registry: Option<&Registry>, sources: &[SourceRead]) -> Picture {
    let mut picture = Picture::default();
    let active = registry.map(|registry| registry.active().version());
    let mut versions = BTreeSet::new();
    for source in sources {
        let mut grid = Grid::new(format!("Objects in {}", source.name), "resource");
        for (version, usage) in source.evidence.needs() {
            versions.insert(*version);
            let condition = match active.map(|active| version.cmp(&active)) {
                Some(order) if order.is_lt() => OLDER,
                Some(order) if order.is_eq() => ACTIVE,
                _ => NEWER,
            };
            for (resource, objects) in &usage.newest {
                grid.add(
                    resource,
                    Column::Version(version.get()),
                    condition,
                    *objects,
                );
            }
        }
        for unresolved in source.evidence.unresolved() {
            for (resource, objects) in &unresolved.usage.newest {
                let column = Column::Other("unknown version".to_owned());
                grid.add(resource, column, UNKNOWN, *objects);
            }
        }
        for (resource, rows) in &source.otherwise {
            for (protected, objects) in rows {
                let column = Column::Other(protected.as_str().to_owned());
                grid.add(resource, column, UNPROTECTED, *objects);
            }
        }
        picture.add_grid(grid);
    }
    for version in versions {
        for line in uses(sources, version) {
            picture.add_need(version.get(), line);
        }
    }
    picture
}
