//! Reading at a single revision. Keys outside the bounds are counted if permitted.

use std::{collections::BTreeMap, num::NonZeroU32};

use etcd_snapshot::{
    file::{OnProgress, Progress},
    revision::{Object, Totals},
};

use super::{
    Bounds, LiveError,
    calls::{Calls, KeyValue, NoPage, RangeRequest, RangeResponse},
    paging::{Keys, Page, Paging, after},
};
use crate::recovery::{
    EtcdReading, Trust,
    inventory::name,
    prefix::{self, is_below},
    unread::Unread,
};

/// Revision number in a request for the newest revision.
pub(super) const NEWEST: i64 = 0;
/// Maximum number of unread prefixes listed. Each one takes two requests.
const LISTED: usize = 100;
const OUT_OF_ORDER: &str = "its keys are out of order or not those that were asked for";

/// A reading of one member.
pub(super) struct Reading<'r> {
    pub(super) calls: Calls,
    pub(super) bounds: &'r Bounds,
    /// Limit of the objects a second.
    pub(super) rate: Option<NonZeroU32>,
    /// Limit of the restarts at a newer revision.
    pub(super) restarts: u32,
    pub(super) on_progress: OnProgress<'r>,
}

impl Reading<'_> {
    /// Passes every object to `gather`. After a compaction, starts again at the newest revision with
    /// an accumulator from `new`.
    pub(super) fn read_all<A>(
        &self,
        mut revision: i64,
        mut new: impl FnMut() -> A,
        mut gather: impl FnMut(&mut A, Object<'_>),
    ) -> Result<EtcdReading<A>, LiveError> {
        for restarts in 0..=self.restarts {
            let mut gathered = new();
            let mut each = |object: Object<'_>| gather(&mut gathered, object);
            match self.read_within(revision, &mut each) {
                Ok((totals, unread)) => {
                    return Ok(EtcdReading {
                        gathered,
                        totals,
                        trust: Trust::Live { restarts },
                        unread,
                    });
                }
                Err(NoPage::Compacted) if self.restarts == 0 => {
                    return Err(LiveError::NoRevision(revision));
                }
                Err(NoPage::Compacted) => revision = NEWEST,
                Err(NoPage::TooLarge) => {
                    return Err(self.inconsistent("one object has more bytes than etcd can store"));
                }
                Err(NoPage::Denied(error) | NoPage::Other(error)) => return Err(error),
            }
        }
        Err(LiveError::Compacted)
    }

    /// Counts all keys, which also tests read access to them. Then reads the keys within the bounds
    /// at the same revision.
    fn read_within(
        &self,
        revision: i64,
        gather: &mut dyn FnMut(Object<'_>),
    ) -> Result<(Totals, Option<Unread>), NoPage> {
        let bounds = self.bounds;
        let (revision, all) = match self.count(&Keys::all(), revision) {
            Ok((keys, revision)) => (revision, Some(keys)),
            Err(NoPage::Denied(_)) => (revision, None),
            Err(error) => return Err(error),
        };
        if let (Some(keys), false) = (all, bounds.prefix_only) {
            let totals = self.read_once(Keys::all(), keys, revision, gather)?;
            return Ok((totals, None));
        }

        let below = Keys::below(bounds.prefix.as_bytes());
        let (keys, revision) = self.count(&below, revision)?;
        let totals = self.read_once(below, keys, revision, gather)?;

        let outside = all.map(|all| all.saturating_sub(keys));
        if outside == Some(0) {
            return Ok((totals, None));
        }
        let prefixes = match outside {
            Some(_) => self.prefixes(&bounds.prefix, revision)?,
            None => BTreeMap::new(),
        };
        let unread = Unread {
            below: bounds.prefix.clone(),
            keys: outside,
            prefixes,
            allowed: bounds.allowed.clone(),
        };
        Ok((totals, Some(unread)))
    }

    /// Number of keys per prefix outside `known`, for the first [`LISTED`] prefixes.
    fn prefixes(&self, known: &str, revision: i64) -> Result<BTreeMap<String, u64>, NoPage> {
        let mut found: BTreeMap<String, u64> = BTreeMap::new();
        let mut rest = Keys::all();
        // One more iteration, because `known` may take one.
        for _ in 0..=LISTED {
            let page = self.calls.call(RangeRequest {
                limit: 1,
                keys_only: true,
                ..request(&rest, revision)
            })?;
            let Some(KeyValue { key, .. }) = page.kvs.first() else {
                break;
            };
            if !rest.contain(key) {
                return Err(NoPage::Other(self.inconsistent(OUT_OF_ORDER)));
            }

            if is_below(key, known) {
                rest.start = Keys::below(known.as_bytes()).end;
                continue;
            }

            let prefix = prefix::of_key(key, known);
            let (keys, next) = if prefix.len() == key.len() {
                (1, after(key))
            } else {
                let below = Keys::below(prefix);
                let (keys, _) = self.count(&below, revision)?;
                (keys, below.end)
            };
            let sum = found.entry(name(prefix)).or_default();
            *sum = sum.saturating_add(keys);
            rest.start = next;
        }
        Ok(found)
    }

    /// Number of keys at a revision, and the revision itself, which resolves [`NEWEST`].
    fn count(&self, keys: &Keys, revision: i64) -> Result<(u64, i64), NoPage> {
        let page = self.calls.call(RangeRequest {
            count_only: true,
            ..request(keys, revision)
        })?;
        let revision = match revision {
            NEWEST => page.header.map_or(0, |header| header.revision),
            pinned => pinned,
        };
        match u64::try_from(page.count) {
            Ok(count) if revision > 0 => Ok((count, revision)),
            _ => {
                let error = self.inconsistent("it has no revision or no count");
                Err(NoPage::Other(error))
            }
        }
    }

    /// Reads the `total` keys of a range. Each page is requested before the previous one is
    /// processed.
    fn read_once(
        &self,
        keys: Keys,
        total: u64,
        revision: i64,
        gather: &mut dyn FnMut(Object<'_>),
    ) -> Result<Totals, NoPage> {
        let broken = |broken| Err(NoPage::Other(self.inconsistent(broken)));
        let (mut done, mut next_key) = (0_u64, keys.start.clone());
        let mut paging = Paging::new(keys, self.rate);
        let send = |paging: &Paging| {
            self.calls.send(RangeRequest {
                limit: paging.limit(),
                ..request(&paging.range(), revision)
            });
        };
        send(&paging);
        loop {
            let answer = match self.calls.receive() {
                Err(NoPage::TooLarge) if paging.halve() => {
                    send(&paging);
                    continue;
                }
                answer => answer?,
            };
            let RangeResponse {
                kvs, more, count, ..
            } = answer.page;
            if more && kvs.is_empty() {
                return broken("there shall be more, and nothing comes");
            }
            let range = paging.range();
            let ends = kvs.first().zip(kvs.last());
            let more = paging.advance(Page {
                ends: ends.map(|(first, last)| (&first.key[..], &last.key[..])),
                objects: i64::try_from(kvs.len()).unwrap_or(i64::MAX),
                bytes: kvs.iter().map(|it| it.key.len() + it.value.len()).sum(),
                count,
                more,
                took: answer.took,
            });
            if more {
                send(&paging);
            }

            for object in &kvs {
                if object.key < next_key || !range.contain(&object.key) {
                    return broken(OUT_OF_ORDER);
                }
                if object.mod_revision <= 0 || object.mod_revision > revision {
                    return broken("an object is of another revision");
                }
                gather(Object {
                    key: &object.key,
                    value: &object.value,
                    revision: object.mod_revision,
                    superseded: false,
                });
                next_key = after(&object.key);
                done += 1;
            }
            (self.on_progress)(Progress { done, total });
            if more {
                continue;
            }
            if done != total {
                return broken("it has not as many objects as it says");
            }
            return Ok(Totals {
                revision,
                compacted: None,
                keys: total,
                superseded: 0,
            });
        }
    }

    fn inconsistent(&self, broken: &'static str) -> LiveError {
        LiveError::Answer {
            endpoint: self.calls.endpoint.clone(),
            broken,
        }
    }
}

fn request(keys: &Keys, revision: i64) -> RangeRequest {
    RangeRequest {
        key: keys.start.clone(),
        range_end: keys.end.clone(),
        revision,
        ..RangeRequest::default()
    }
}
