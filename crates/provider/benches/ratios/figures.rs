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
use openbao_client::endpoint::Endpoint;
use tokio::{runtime, task::JoinSet, time::sleep};

use crate::{
    Extent, Progress, batcher,
    direct::{self, Direct},
    load::{self, Block, Call, Sample, Side, count, median},
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

/// Each call through one socket.
pub(crate) struct SocketCalls {
    pub(crate) status: Call,
    pub(crate) encrypt: Call,
    pub(crate) decrypt: Call,
}

impl SocketCalls {
    /// Creates the ciphertexts, and returns them too.
    pub(crate) async fn prepare(client: KmsClient) -> (Self, Vec<DecryptRequest>) {
        let mut requests = Vec::new();
        for _ in 0..CIPHERTEXTS {
            requests.push(encrypted(client.clone()).await);
        }
        let decrypt = decrypt_of(&client, requests.clone());
        let encrypting = client.clone();
        let calls = Self {
            status: Arc::new(move |_| {
                let mut client = client.clone();
                Box::pin(async move { drop(client.status(StatusRequest {}).await.unwrap()) })
            }),
            encrypt: Arc::new(move |_| {
                let client = encrypting.clone();
                Box::pin(async move { drop(encrypted(client).await) })
            }),
            decrypt,
        };
        (calls, requests)
    }
}

/// Each call, with and without the provider.
pub(crate) struct Calls {
    status: Call,
    encrypt: Pair,
    pub(crate) decrypt: Pair,
    /// See [`crate::relay`]; only with 1 call in flight.
    relay: Pair,
    /// See [`batcher`]; only with 1 call in flight.
    lanes: Pair,
    equal_decrypt: Call,
    direct: Direct,
    prepared: Arc<Vec<PreparedDecrypt>>,
}

pub(crate) struct Pair {
    socket: Call,
    direct: Call,
}

impl Pair {
    /// Through the socket, and directly.
    pub(crate) fn sides(&self, in_flight: usize, block: Block) -> [Side<'_>; 2] {
        [&self.socket, &self.direct].map(|call| Side {
            call,
            in_flight,
            block,
        })
    }
}

impl Calls {
    pub(crate) fn status(&self) -> &Call {
        &self.status
    }

    /// Logs in at this address, and creates ciphertexts through the provider.
    pub(crate) async fn prepare(stage: &Stage, provider: &Provider, endpoint: Endpoint) -> Self {
        let client = provider.client();
        let (sockets, requests) = SocketCalls::prepare(client.clone()).await;
        let prepared = Arc::new(direct::prepared(stage, &requests));

        let direct = Direct::log_in(stage, endpoint.clone()).await;
        let encrypt = Pair {
            socket: sockets.encrypt,
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
        let decrypt = Pair {
            socket: sockets.decrypt,
            direct: direct_decrypt(direct.clone(), &prepared),
        };
        let relay = Pair {
            // A connection belongs to the thread that opened it, so the relay needs its own.
            socket: relayed(direct_decrypt(
                Direct::log_in(stage, endpoint).await,
                &prepared,
            )),
            direct: Arc::clone(&decrypt.direct),
        };

        Self {
            status: sockets.status,
            encrypt,
            decrypt,
            relay,
            lanes,
            equal_decrypt: decrypt_of(&client, requests[..1].to_vec()),
            direct,
            prepared,
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
    report.push(row("memory.idle.resident", idle.resident).target(AtMost(14.0)));
    report.push(row("memory.idle.anonymous", idle.anonymous));
    report.push(Row::new("memory.decrypts", count(decrypts), ""));
    let computed = Row::new("memory.cpu_per_decrypt", computed, "us");
    report.push(computed.target(AtMost(25.0)));
    report.push(row("memory.after.resident", after.resident).target(AtMost(14.0)));
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
    let (status, echo) = (status.percentile(99), echo.percentile(99));
    let p99 = Row::new("status.saturated.p99", status, "ms");
    report.push(p99.beside(echo, status / echo).target(AtMost(3.0)));
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

/// Calls through the socket and direct calls in turns.
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
        let sides = pair.sides(in_flight, block);
        let rounds = load::in_turns(extent.rounds, sides, |round| {
            progress.say(&format!("{name}, {in_flight} in flight, round {round}"));
        })
        .await;
        let named = |what: &str| format!("{name}.{in_flight}.{what}");
        let mut p50 = Row::of(named("p50"), "ms", &rounds, |it| it.percentile(50));
        if name == "lanes" {
            p50 = p50.target(AtMost(1.02));
        }
        report.push(p50);
        report.push(Row::of(named("p99"), "ms", &rounds, |it| it.percentile(99)));
        let rate = Row::of(named("rate"), "calls/s", &rounds, Sample::calls_per_second);
        report.push(rate);
    }
}

/// Single calls beside the least time on this machine: the direct call, the relay's wake-ups and an
/// empty gRPC call.
pub(crate) fn limits(report: &mut Report) {
    let (Some((relay, relayed)), Some(status)) = (
        report.figures("relay.1.p50"),
        report.value("status.alone.p50"),
    ) else {
        return;
    };
    for name in ["encrypt", "decrypt"] {
        if let Some((call, direct)) = report.figures(&format!("{name}.1.p50")) {
            let least = direct + relay - relayed + status;
            let row = Row::new(format!("{name}.1.to_limit"), call, "ms");
            report.push(row.beside(least, call / least).target(AtMost(1.08)));
        }
    }
}

/// Decrypts of a crowd, beside a direct client that sends as many items in each request as the
/// provider does, with as many items in flight.
pub(crate) async fn batches(
    stage: &Stage,
    provider: &Provider,
    calls: &Calls,
    extent: &Extent,
    progress: &Progress,
    report: &mut Report,
) {
    let requests = || provider.metric("openbao_kms_openbao_requests_total", "decrypt\"");
    let before = requests();
    let sample = extent.crowded.run(CROWD, &calls.decrypt.socket).await;
    let items = count(sample.calls()) / (requests() - before);
    report.push(Row::new("batch.64.items_per_request", items, "").target(AtLeast(16.0)));

    let size = (1..CROWD).rfind(|size| count(*size) <= items).unwrap_or(1);
    let (direct, prepared) = (calls.direct.clone(), Arc::clone(&calls.prepared));
    let batch: Call = Arc::new(move |number| {
        let (direct, prepared) = (direct.clone(), Arc::clone(&prepared));
        Box::pin(async move {
            let wanted = (0..size).map(|item| &prepared[(number * size + item) % CIPHERTEXTS]);
            let wanted: Vec<_> = wanted.collect();
            direct.decrypt_batch(&wanted, &PLAINTEXT).await;
        })
    });
    let sides = [
        Side {
            call: &calls.decrypt.socket,
            in_flight: CROWD,
            block: extent.crowded,
        },
        Side {
            call: &batch,
            in_flight: CROWD / size,
            block: Block::new(extent.crowded.calls / size, extent.crowded.time),
        },
    ];
    let rounds = load::in_turns(extent.rounds, sides, |round| {
        progress.say(&format!("batches of {size}, round {round}"));
    })
    .await;
    let rate = |samples: &[f64]| median(samples.iter().copied());
    let ours: Vec<_> = rounds.iter().map(|(it, _)| it.calls_per_second()).collect();
    let theirs = rounds
        .iter()
        .map(|(_, it)| it.calls_per_second() * count(size));
    let theirs: Vec<_> = theirs.collect();
    let ratios: Vec<_> = ours
        .iter()
        .zip(&theirs)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    let row = Row::new("batch.64.rate", rate(&ours), "items/s");
    let row = row.beside(rate(&theirs), rate(&ratios));
    report.push(row.target(AtLeast(0.85)));

    progress.say("computing time");
    let [through, directly] = sides;
    let openbao = stage.server.pid().as_raw_nonzero().get().unsigned_abs();
    let processes = [provider.pid(), openbao, std::process::id()];
    let through = computing(through, 1, &processes, extent).await;
    let directly = computing(directly, size, &processes, extent).await;
    let rows = ["provider", "openbao", "caller"].iter().zip(through);
    for ((process, through), directly) in rows.zip(directly) {
        let row = Row::new(format!("batch.64.computing.{process}"), through, "us");
        report.push(match *process {
            "provider" => row,
            _ => row.beside(directly, through / directly),
        });
    }
    let empty = Side {
        call: &calls.status,
        in_flight: CROWD,
        block: extent.crowded,
    };
    let empty = computing(empty, 1, &processes, extent).await;
    for (name, empty) in ["provider", "caller"].iter().zip([empty[0], empty[2]]) {
        let name = format!("status.64.computing.{name}");
        report.push(Row::new(name, empty, "us"));
    }
}

/// Computing time of each process for one item, in microseconds.
async fn computing<const N: usize>(
    side: Side<'_>,
    items: usize,
    processes: &[u32; N],
    extent: &Extent,
) -> [f64; N] {
    let before = processes.map(provider_process::computed);
    let Block { calls, time } = extent.decrypts;
    let block = Block::new(calls / items, time);
    let sample = block.run(side.in_flight, side.call).await;
    let after = processes.map(provider_process::computed);
    let items = count(sample.calls() * items);
    let spent = before.into_iter().zip(after);
    let spent: Vec<_> = spent
        .map(|(before, after)| (after - before).as_secs_f64() * 1e6 / items)
        .collect();
    spent.try_into().unwrap()
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
