//! The measurements, in the order of the report.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kms_domain::prepare::PreparedDecrypt;
use kms_node::kms_api::generated::{DecryptRequest, EncryptRequest, StatusRequest};
use tokio::{runtime, task::JoinSet, time::sleep};

use crate::{
    Extent, Progress, batcher,
    direct::{self, Direct},
    load::{Block, Call, Sample, count, median},
    provider_process::{self, KmsClient, Memory, Provider},
    relay::relayed,
    report::{
        Report, Row,
        Target::{AtLeast, AtMost},
    },
    stage::Stage,
};

/// Same length as the seeds of Kubernetes.
pub(crate) const PLAINTEXT: [u8; 32] = [0x5a; 32];
/// Number of ciphertexts decrypted in turn.
const CIPHERTEXTS: usize = 256;
const CROWD: usize = 64;
const STATUS: Block = Block::new(3_000, Duration::from_secs(3));
/// Pause between two Status calls during saturation.
const STATUS_PAUSE: Duration = Duration::from_millis(4);

/// Files of the C library, including `libgcc_s` for its unwinder. The program must not need any
/// other library.
const LIBC: [&str; 7] = [
    "libgcc_s.so",
    "libc.so",
    "libm.so",
    "libdl.so",
    "librt.so",
    "libpthread.so",
    "ld-linux",
];

/// Each call, with and without the provider.
pub(crate) struct Calls {
    status: Call,
    encrypt: Pair,
    decrypt: Pair,
    /// See [`crate::relay`]; only with 1 call in flight.
    relay: Pair,
    /// See [`batcher`]; only with 1 call in flight.
    lanes: Pair,
    equal_decrypt: Call,
}

struct Pair {
    socket: Call,
    direct: Call,
}

impl Calls {
    /// Logs in, and creates ciphertexts through the provider.
    pub(crate) async fn prepare(stage: &Stage, provider: &Provider) -> Self {
        let client = provider.client();
        let mut requests = Vec::new();
        for _ in 0..CIPHERTEXTS {
            requests.push(encrypted(client.clone()).await);
        }
        let prepared = Arc::new(direct::prepared(stage, &requests));

        let direct = Direct::log_in(stage).await;
        let encrypt = Pair {
            socket: {
                let client = client.clone();
                Arc::new(move |_| {
                    let client = client.clone();
                    Box::pin(async move { drop(encrypted(client).await) })
                })
            },
            direct: {
                let (direct, prepared) = (direct.clone(), Arc::clone(&prepared));
                Arc::new(move |_| {
                    let (direct, prepared) = (direct.clone(), Arc::clone(&prepared));
                    Box::pin(async move { direct.encrypt(&PLAINTEXT, &prepared[0]).await })
                })
            },
        };

        let (with, without) = batcher::with_and_without(
            stage,
            direct.role.clone(),
            direct.transit.clone(),
            &prepared,
        );
        let lanes = Pair {
            socket: with,
            direct: without,
        };

        let equal_decrypt = decrypt_of(&client, requests[..1].to_vec());
        let decrypt = Pair {
            socket: decrypt_of(&client, requests),
            direct: direct_decrypt(direct, &prepared),
        };

        let relay = Pair {
            // A connection belongs to the thread that opened it, so the relay needs its own.
            socket: relayed(direct_decrypt(Direct::log_in(stage).await, &prepared)),
            direct: Arc::clone(&decrypt.direct),
        };

        Self {
            status: Arc::new(move |_| {
                let mut client = client.clone();
                Box::pin(async move { drop(client.status(StatusRequest {}).await.unwrap()) })
            }),
            encrypt,
            decrypt,
            relay,
            lanes,
            equal_decrypt,
        }
    }
}

pub(crate) async fn encrypted(mut client: KmsClient) -> DecryptRequest {
    let request = EncryptRequest {
        plaintext: Bytes::from_static(&PLAINTEXT),
        uid: "bench".to_owned(),
    };
    let encrypted = client.encrypt(request).await.unwrap().into_inner();
    DecryptRequest {
        ciphertext: encrypted.ciphertext,
        uid: "bench".to_owned(),
        key_id: encrypted.key_id,
        annotations: encrypted.annotations,
    }
}

fn direct_decrypt(direct: Direct, prepared: &Arc<Vec<PreparedDecrypt>>) -> Call {
    let prepared = Arc::clone(prepared);
    Arc::new(move |number| {
        let (direct, prepared) = (direct.clone(), Arc::clone(&prepared));
        Box::pin(async move {
            let prepared = &prepared[number % CIPHERTEXTS];
            direct.decrypt(prepared, &PLAINTEXT).await;
        })
    })
}

fn decrypt_of(client: &KmsClient, requests: Vec<DecryptRequest>) -> Call {
    let client = client.clone();
    Arc::new(move |number| {
        let mut client = client.clone();
        let request = requests[number % requests.len()].clone();
        Box::pin(async move {
            let decrypted = client.decrypt(request).await.unwrap();
            assert!(
                decrypted.into_inner().plaintext == PLAINTEXT[..],
                "other bytes came back"
            );
        })
    })
}

/// Time from the start of the process to the first response, with an existing state.
pub(crate) async fn starts(stage: &Stage, extent: &Extent, report: &mut Report) {
    // Creates the state.
    stage.provider().await.stop().await;
    let (mut whole, mut openbao) = (Vec::new(), Vec::new());
    for _ in 0..extent.starts {
        let provider = stage.provider().await;
        whole.push(provider.start.as_secs_f64() * 1e3);
        openbao.push(provider.metric("openbao_kms_openbao_duration_seconds_sum", "") * 1e3);
        provider.stop().await;
    }
    let own = whole
        .iter()
        .zip(&openbao)
        .map(|(all, openbao)| all - openbao);
    let own = Row::new("start.without_openbao", median(own), "ms").target(AtMost(150.0));
    report.push(Row::new("start.to_first_answer", median(whole), "ms"));
    report.push(Row::new("start.openbao_answers", median(openbao), "ms"));
    report.push(own);
}

/// Size and libraries of the program.
pub(crate) fn program(stage: &Stage, provider: &Provider, report: &mut Report) {
    let bytes = fs::metadata(&stage.program).unwrap().len();
    let megabytes = f64::from(u32::try_from(bytes).unwrap()) / 1e6;
    report.push(Row::new("program.size", megabytes, "MB").target(AtMost(14.0)));
    let libraries = provider.libraries();
    let foreign = libraries
        .iter()
        .filter(|name| !LIBC.iter().any(|part| name.starts_with(part)));
    let foreign = count(foreign.count());
    report.push(Row::new("program.libraries_beside_libc", foreign, "").target(AtMost(0.0)));
}

/// Memory after many decrypts, and their CPU time. `idle` is the memory before the first one.
pub(crate) async fn memory(
    provider: &Provider,
    calls: &Calls,
    idle: Memory,
    extent: &Extent,
    report: &mut Report,
) {
    let computed = provider.computed();
    let half = Block::new(extent.decrypts.calls / 2, extent.decrypts.time / 2);
    let mut decrypts = half.run(CROWD, &calls.decrypt.socket).await.calls();
    let middle = provider.memory();
    decrypts += half.run(CROWD, &calls.decrypt.socket).await.calls();
    let after = provider.memory();
    let computed = (provider.computed() - computed).as_secs_f64() * 1e6 / count(decrypts);

    let mebibytes = |kibibytes: u32| f64::from(kibibytes) / 1024.0;
    let row = |name, kibibytes| Row::new(name, mebibytes(kibibytes), "MiB");
    report.push(row("memory.idle.resident", idle.resident).target(AtMost(12.0)));
    report.push(row("memory.idle.anonymous", idle.anonymous));
    report.push(Row::new("memory.decrypts", count(decrypts), ""));
    report.push(Row::new("memory.cpu_per_decrypt", computed, "us"));
    report.push(row("memory.after.resident", after.resident).target(AtMost(12.0)));
    report.push(row("memory.after.anonymous", after.anonymous));
    let growth = mebibytes(after.resident) - mebibytes(middle.resident);
    report.push(Row::new("memory.growth_in_second_half", growth, "MiB").target(AtMost(0.25)));
}

/// Latency of Status, without other calls and during saturation by Encrypt and Decrypt calls.
pub(crate) async fn status(
    provider: &Provider,
    calls: &Calls,
    extent: &Extent,
    report: &mut Report,
) {
    let requests = || provider.metric("openbao_kms_openbao_requests_total", "");
    let before = requests();
    let alone = STATUS.run(1, &calls.status).await;
    let caused = requests() - before;
    report.push(Row::new("status.openbao_requests", caused, "").target(AtMost(0.0)));
    report.push(Row::new("status.alone.p50", alone.percentile(50), "ms"));
    report.push(Row::new("status.alone.p99", alone.percentile(99), "ms"));

    let stop = Arc::new(AtomicBool::new(false));
    // A separate thread, to exclude the queues of this client from the measurement.
    let watching = thread::spawn({
        let (socket, stop) = (provider.socket().to_owned(), Arc::clone(&stop));
        move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            let watching = status_and_echo(&socket, &stop);
            runtime.unwrap().block_on(watching)
        }
    });
    let saturating = Block::new(usize::MAX, extent.saturated);
    tokio::join!(
        saturating.run(CROWD / 2, &calls.encrypt.socket),
        saturating.run(CROWD / 2, &calls.decrypt.socket),
    );
    stop.store(true, Ordering::Relaxed);
    let (status, echo) = watching.join().unwrap();
    report.push(Row::new(
        "status.saturated.p50",
        status.percentile(50),
        "ms",
    ));
    let p99 = Row::new("status.saturated.p99", status.percentile(99), "ms");
    report.push(p99.target(AtMost(1.0)));
    report.push(Row::new("echo.saturated.p99", echo.percentile(99), "ms"));
}

/// Alternates Status calls with echoes of another thread. The echoes measure the machine's delay in
/// waking an idle thread.
async fn status_and_echo(socket: &Path, stop: &AtomicBool) -> (Sample, Sample) {
    let mut client = provider_process::client(socket);
    let echo = relayed(Arc::new(|_| Box::pin(async {})));
    let (mut statuses, mut echoes) = (Vec::new(), Vec::new());
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        client.status(StatusRequest {}).await.unwrap();
        statuses.push(begin.elapsed());
        sleep(STATUS_PAUSE).await;
        let begin = Instant::now();
        echo(0).await;
        echoes.push(begin.elapsed());
        sleep(STATUS_PAUSE).await;
    }
    let took = started.elapsed();
    (Sample::new(statuses, took), Sample::new(echoes, took))
}

/// Alternates calls through the socket and direct calls, so that a drift of the machine affects
/// both equally.
pub(crate) async fn in_turns(
    calls: &Calls,
    in_flight: usize,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    let mut pairs = vec![("encrypt", &calls.encrypt), ("decrypt", &calls.decrypt)];
    let block = if in_flight == 1 {
        pairs.push(("relay", &calls.relay));
        pairs.push(("lanes", &calls.lanes));
        extent.alone
    } else {
        extent.crowded
    };
    for (name, pair) in pairs {
        let mut rounds = Vec::new();
        // The first round is a warm-up.
        for round in 0..=extent.rounds {
            progress.say(&format!("{name}, {in_flight} in flight, round {round}"));
            let (direct, socket);
            if round % 2 == 0 {
                direct = block.run(in_flight, &pair.direct).await;
                socket = block.run(in_flight, &pair.socket).await;
            } else {
                socket = block.run(in_flight, &pair.socket).await;
                direct = block.run(in_flight, &pair.direct).await;
            }
            if round > 0 {
                rounds.push((socket, direct));
            }
        }
        let row = |what, unit, figure: &dyn Fn(&Sample) -> f64| {
            let name = format!("{name}.{in_flight}.{what}");
            let socket = median(rounds.iter().map(|(socket, _)| figure(socket)));
            let direct = median(rounds.iter().map(|(_, direct)| figure(direct)));
            let ratios = rounds
                .iter()
                .map(|(socket, direct)| figure(socket) / figure(direct));
            Row::new(name, socket, unit).beside(direct, median(ratios))
        };
        let mut p50 = row("p50", "ms", &|sample| sample.percentile(50));
        let p99 = row("p99", "ms", &|sample| sample.percentile(99));
        let mut rate = row("rate", "calls/s", &Sample::calls_per_second);
        match (name, in_flight) {
            ("encrypt" | "decrypt", 1) => p50 = p50.target(AtMost(1.15)),
            ("lanes", _) => p50 = p50.target(AtMost(1.02)),
            ("decrypt", _) => rate = rate.target(AtLeast(6.0)),
            _ => {}
        }
        for row in [p50, p99, rate] {
            report.push(row);
        }
    }
}

/// Cost in Transit of many equal decrypts at once.
pub(crate) async fn equal_decrypts(provider: &Provider, calls: &Calls, report: &mut Report) {
    // All of them wait for the response to the first one, so each item is a request.
    let items = || provider.metric("openbao_kms_openbao_requests_total", "decrypt\"");
    let before = items();
    Block::new(CROWD, Duration::from_secs(10))
        .run(CROWD, &calls.equal_decrypt)
        .await;
    let caused = items() - before;
    report.push(Row::new("equal_decrypts.64.items", caused, "").target(AtMost(1.0)));
}

/// Concurrent decrypts with one invalid ciphertext: counts the failures of the others.
pub(crate) async fn bad_neighbour(provider: &Provider, report: &mut Report) {
    let mut requests = Vec::new();
    for _ in 0..CROWD {
        requests.push(encrypted(provider.client()).await);
    }
    let text = std::str::from_utf8(&requests[CROWD / 2].ciphertext).unwrap();
    requests[CROWD / 2].ciphertext = text.replacen(":v1:", ":v1:AAAA", 1).into();
    let client = provider.client();
    let mut calls = JoinSet::new();
    for request in requests {
        let mut client = client.clone();
        calls.spawn(async move { client.decrypt(request).await.is_err() });
    }
    let failed = calls.join_all().await.into_iter().filter(|failed| *failed);
    let failed = failed.count();
    assert!(failed > 0, "the bad ciphertext was decrypted");
    let harmed = count(failed - 1);
    report.push(Row::new("bad_neighbour.64.harmed", harmed, "").target(AtMost(0.0)));
}
