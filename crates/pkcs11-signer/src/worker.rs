//! The worker: the only process that loads a module.

use rustix::{
    fd::BorrowedFd,
    process::{Signal, set_parent_process_death_signal},
};

use crate::{
    frame::{Frame, Kind, Open, Reply, Sign},
    problem::TokenProblem,
};

#[cfg(feature = "module")]
use crate::module::SigningSession;

/// Serves the keeper at the other end of `channel`, until it is killed or the channel ends.
///
/// # Errors
/// The channel failed.
pub fn work(channel: BorrowedFd<'_>) -> std::io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut session = None;
    while let Some(frame) = Frame::receive(channel)? {
        let number = frame.number().unwrap_or_default();
        let answer = match frame.kind() {
            Some(Kind::Open) => {
                let opened = frame.body::<Open>().ok_or(TokenProblem::HelperGone);
                drop(frame);
                let opened = opened.and_then(|open| SigningSession::open(&open));
                let kind: Reply<_> = opened.map(|opened| session.insert(opened).kind());
                Frame::new(Kind::Answer, number, &kind)
            }
            Some(Kind::Sign) => {
                let signed = match (&session, frame.body::<Sign>()) {
                    (Some(session), Some(sign)) => session.sign(sign.mechanism, &sign.data),
                    _ => Err(TokenProblem::HelperGone),
                };
                Frame::new(Kind::Answer, number, &signed)
            }
            Some(Kind::Close | Kind::Answer) | None => None,
        };
        if let Some(answer) = answer {
            answer.send(channel)?;
        }
    }
    Ok(())
}

/// Stands for the session of a build that cannot load modules.
#[cfg(not(feature = "module"))]
enum SigningSession {}

#[cfg(not(feature = "module"))]
impl SigningSession {
    fn open(_: &Open) -> Result<Self, TokenProblem> {
        Err(TokenProblem::NotBuilt)
    }

    fn kind(&self) -> crate::frame::KeyKind {
        match *self {}
    }

    fn sign(&self, _: crate::frame::Mechanism, _: &[u8]) -> Result<Vec<u8>, TokenProblem> {
        match *self {}
    }
}
