//! As many objects as a large cluster has.

use std::time::{Duration, Instant};

use testkit::{control_plane::Kind, wait::wait_until};

use super::{MARKER, Operator, count, patches, with_plain_objects, writes};

const OBJECTS: usize = 20_000;
const RATE: f64 = 400.0;

#[tokio::test]
#[ignore = "minutes: 20,000 objects"]
async fn twenty_thousand_secrets_are_written_once_each_through_two_kills() {
    let (cluster, _provider) = with_plain_objects(OBJECTS, &[]).await;
    let operator = Operator::of(&cluster);
    let options = [
        "--resource",
        "secrets",
        "--rate",
        "400",
        "--concurrency",
        "8",
    ];
    let begun = Instant::now();
    for target in [5_000.0, 12_000.0] {
        let (started, before) = (Instant::now(), patches(&cluster).await);
        let mut child = operator.spawn(&options);
        let within = Duration::from_secs(300);
        wait_until(within, "a part of the work", async || {
            let now = patches(&cluster).await;
            let rate = (now - before) / started.elapsed().as_secs_f64();
            assert!(rate <= RATE, "{rate} writes a second");
            now >= target
        })
        .await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let result = operator.proven(&options);
    let (rewritten, earlier) = (
        count(&result, "secrets", "rewritten"),
        count(&result, "secrets", "earlier"),
    );
    println!(
        "{OBJECTS} objects in {:?}: {rewritten} by the last run, {earlier} before",
        begun.elapsed()
    );
    assert_eq!(rewritten + earlier, OBJECTS as u64 + 1);
    let after = writes(&cluster, Kind::Secret);
    assert_eq!(after.len(), OBJECTS + 1);
    for (name, (times, _)) in after {
        let expected = if name == "ending" { 4 } else { 2 };
        assert_eq!(times, expected, "{name}");
    }
    for name in ["plain-0", "plain-9999", "plain-19999"] {
        let read = cluster.control_plane.read(Kind::Secret, name).await;
        assert_eq!(read.unwrap().as_deref(), Some(MARKER));
    }
}
