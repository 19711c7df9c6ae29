//! The keeper: starts a worker for each use of a token, and kills it.

use std::{
    io,
    process::{Child, Command, Stdio},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{BorrowedFd, OwnedFd},
    thread::set_no_new_privs,
};

use crate::{
    frame::{Frame, Kind, Reply, channel},
    problem::TokenProblem,
};

/// Killed workers that may stay, each in a call of the kernel that cannot be interrupted.
const MOST_DYING: usize = 4;
/// Interval of looking after killed workers.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// A process with the module.
struct Worker {
    process: Child,
    channel: OwnedFd,
    /// Number of the unanswered call.
    call: Option<u64>,
}

/// Serves the provider at the other end of `provider` until it ends. `worker` is the command of a
/// worker; it gets its channel as standard input.
///
/// # Errors
/// The channel failed.
pub fn keep(provider: BorrowedFd<'_>, worker: impl Fn() -> Command) -> io::Result<()> {
    set_no_new_privs(true)?;
    let mut current: Option<Worker> = None;
    let mut dying: Vec<Child> = Vec::new();
    loop {
        dying.retain_mut(|process| matches!(process.try_wait(), Ok(None)));
        let (from_provider, from_worker) = wait(provider, current.as_ref(), !dying.is_empty())?;
        if from_worker && let Some(worker) = &mut current {
            match Frame::receive(&worker.channel) {
                Ok(Some(answer)) => {
                    worker.call = None;
                    answer.send(provider)?;
                }
                Ok(None) | Err(_) => {
                    let call = worker.call;
                    retire(&mut current, &mut dying);
                    refuse(provider, call, TokenProblem::Crashed)?;
                }
            }
        }
        if !from_provider {
            continue;
        }
        let Some(frame) = Frame::receive(provider)? else {
            retire(&mut current, &mut dying);
            return Ok(());
        };
        match frame.kind() {
            Some(Kind::Open) => {
                retire(&mut current, &mut dying);
                current = (dying.len() < MOST_DYING)
                    .then(|| start(worker()).ok())
                    .flatten();
                forward(&frame, &mut current, provider)?;
            }
            Some(Kind::Sign) => forward(&frame, &mut current, provider)?,
            Some(Kind::Close) => retire(&mut current, &mut dying),
            Some(Kind::Answer) | None => {}
        }
    }
}

/// Waits for a message of either side, or for a moment.
fn wait(
    provider: BorrowedFd<'_>,
    worker: Option<&Worker>,
    moment: bool,
) -> io::Result<(bool, bool)> {
    let mut sources = vec![PollFd::from_borrowed_fd(provider, PollFlags::IN)];
    sources.extend(worker.map(|worker| PollFd::new(&worker.channel, PollFlags::IN)));
    match poll(&mut sources, moment.then_some(&LOOK)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = sources.iter().map(|source| !source.revents().is_empty());
    Ok((ready.next().unwrap_or(false), ready.next().unwrap_or(false)))
}

fn start(mut worker: Command) -> io::Result<Worker> {
    let (channel, of_worker) = channel()?;
    let process = worker
        .stdin(Stdio::from(of_worker))
        // Modules print there.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Worker {
        process,
        channel,
        call: None,
    })
}

fn forward(
    frame: &Frame,
    current: &mut Option<Worker>,
    provider: BorrowedFd<'_>,
) -> io::Result<()> {
    let Some(worker) = current else {
        return refuse(provider, frame.number(), TokenProblem::Hangs);
    };
    worker.call = frame.number();
    // A dead worker is noticed by the end of its channel.
    frame.send(&worker.channel).ok();
    Ok(())
}

fn refuse(provider: BorrowedFd<'_>, call: Option<u64>, problem: TokenProblem) -> io::Result<()> {
    let answer = call.and_then(|call| Frame::new(Kind::Answer, call, &Reply::<()>::Err(problem)));
    if let Some(answer) = answer {
        answer.send(provider)?;
    }
    Ok(())
}

/// Kills the worker, if there is one.
fn retire(current: &mut Option<Worker>, dying: &mut Vec<Child>) {
    if let Some(Worker { mut process, .. }) = current.take() {
        // Fails only for an ended one.
        process.kill().ok();
        dying.push(process);
    }
}
