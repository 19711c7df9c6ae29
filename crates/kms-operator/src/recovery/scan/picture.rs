//! Picture of a scan: the objects of each resource by key version or other protection.

use std::collections::{BTreeMap, BTreeSet};

use kms_domain::recovery::resolve::KeyResolver;
use kms_node::report::{
    counted,
    picture::{Column, Condition, Grid, Picture, Rating},
};

use super::{content::KeyIdRow, is_secrets};
use crate::recovery::{
    inventory::{Inventory, Protected},
    picture::add_lineage,
};

const DERIVED: Condition = Condition::new(Rating::Good, "derived");
const CLAIMED: Condition = Condition::new(Rating::Plain, "by annotation");
const UNKNOWN: Condition = Condition::new(Rating::Odd, "unknown");

/// `key_ids` has the row of each group of the inventory, in its order.
pub(super) fn picture(
    inventory: &Inventory,
    key_ids: &[KeyIdRow],
    lineage: Option<&KeyResolver>,
) -> Picture {
    let mut picture = Picture::default();
    if let Some(lineage) = lineage {
        add_lineage(&mut picture, lineage);
    }
    let providers: BTreeSet<_> = key_ids.iter().map(|row| &row.provider).collect();
    let sole = lineage.is_none() && providers.len() <= 1;

    let mut grid = Grid::new("Objects by resource and key version", "resource");
    let mut needs: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for (group, row) in inventory.groups.iter().zip(key_ids) {
        let ours = row.is_ours || sole;
        let version = row.transit_version.filter(|_| row.gap.is_none());
        let (column, condition) = match version {
            Some(version) => {
                let condition = if lineage.is_some() { DERIVED } else { CLAIMED };
                let column = match ours {
                    true => Column::Version(version),
                    false => Column::Other(format!("{}: version {version}", row.provider)),
                };
                (column, condition)
            }
            None if ours => (Column::Other("unknown version".to_owned()), UNKNOWN),
            None => (
                Column::Other(row.provider.clone()),
                Condition::new(Rating::Plain, "of others"),
            ),
        };
        if let Column::Version(version) = column {
            let (objects, deks) = needs.entry(version).or_default();
            *objects = objects.saturating_add(group.count.objects);
            *deks = deks.saturating_add(group.distinct_seeds());
        }
        for (resource, objects) in &group.resources {
            grid.add(resource, column.clone(), condition, *objects);
        }
    }
    for (resource, rows) in &inventory.resources {
        for (protected, count) in rows {
            let Some(condition) = otherwise(resource, protected) else {
                continue;
            };
            let column = Column::Other(protected.as_str().to_owned());
            grid.add(resource, column, condition, count.objects);
        }
    }
    picture.add_grid(grid);

    for (version, (objects, deks)) in needs {
        picture.add_version(version, None);
        let need = format!(
            "must stay decryptable for {} with {}",
            counted(objects, "object"),
            counted(u64::try_from(deks).unwrap_or(u64::MAX), "encrypted DEK"),
        );
        picture.add_need(version, need);
    }
    picture
}

/// Condition of objects outside of KMS v2, which has groups.
fn otherwise(resource: &str, protected: &Protected) -> Option<Condition> {
    let rating = match protected {
        Protected::KmsV2(_) => return None,
        Protected::Damaged(_) => Rating::Bad,
        Protected::Plaintext if is_secrets(resource) => Rating::Bad,
        Protected::Unknown => Rating::Odd,
        Protected::KmsV1(_)
        | Protected::Local(_)
        | Protected::Plaintext
        | Protected::NotAnObject => Rating::Plain,
    };
    Some(Condition::new(rating, protected.as_str()))
}
