//! Failed calls of a scenario, compared with those that its fault explains.

use testkit::control_plane::Record;

/// A call without an answer in time. One in a hundred may be late on a busy machine.
pub(super) const LATE: &str = "no answer within";

/// Errors of calls to an API server that is stopped, killed or starting.
const STOPPED: [&str; 2] = ["client error (", "got unexpected nil transformer"];

/// Errors by which etcd ends its requests when its leader is lost.
pub(super) const ETCD_LEADER: [&str; 2] = ["etcdserver: ", "rpc error: code = Unavailable"];

/// Asserts that no call failed, apart from few late ones.
pub(super) fn assert_none_failed(record: &Record) {
    assert_explained(record, &[], &[]);
}

/// Asserts that every failed call went to one of the `stopped` API servers and met its end, or has
/// one of these errors. One call in a hundred may be late.
pub(super) fn assert_explained(record: &Record, stopped: &[usize], errors: &[&str]) {
    let is = |error: &str, known: &[&str]| known.iter().any(|known| error.contains(known));
    let mut late = 0;
    for ((place, error), number) in &record.errors {
        let explained = is(error, errors) || stopped.contains(place) && is(error, &STOPPED);
        if !explained {
            assert!(is(error, &[LATE]), "API server {place}: {number} x {error}");
            late += number;
        }
    }
    assert!(late * 100 <= record.calls, "{late} late calls: {record:?}");
}
