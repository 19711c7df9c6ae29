//! OpenBao over HTTPS: classified requests, Transit, logins.
//!
//! The crate opens TLS connections to the configured addresses of one cluster, trusts one configured
//! set of roots, follows no redirect and reads no proxy variable. It repeats a request only when a
//! second execution does no harm: once when the connection broke before the answer began, and at
//! another address when one could not do the work.
//! Tokens, JWTs and plaintext live in wiping storage and never enter an error. Copies made inside
//! hyper, rustls and the allocator lie outside its reach.

mod connect;
mod pool;
mod responder;

pub mod addresses;
pub mod client;
pub mod credential_file;
pub mod endpoint;
pub mod failure;
pub mod leader;
pub mod login;
pub mod request;
pub mod seal_status;
pub mod token;
pub mod transit;
pub mod turns;
pub mod view;

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    /// Does not compile for a type that has the trait: then two implementations fit.
    macro_rules! lacks {
        ($($secret:ty),+: $forbidden:path) => {
            $(const _: fn() = || {
                trait Fits<Why> {
                    fn here() {}
                }
                impl<T: ?Sized> Fits<()> for T {}
                struct Forbidden;
                impl<T: ?Sized + $forbidden> Fits<Forbidden> for T {}
                <$secret as Fits<_>>::here();
            };)+
        };
    }

    use crate::{
        client::Answer,
        login::{Grant, Renewal, jwt::Jwt},
        request::Request,
        token::Token,
        transit::Plaintext,
    };

    lacks!(Token, Jwt, Plaintext, Grant, Renewal, Answer, Request<'_>: Debug);
    lacks!(Token, Jwt, Plaintext, Grant, Renewal, Answer, Request<'_>: Display);
    lacks!(Token, Jwt, Plaintext, Grant, Renewal, Answer, Request<'_>: Clone);
    lacks!(Token, Jwt, Plaintext, Grant, Renewal, Answer, Request<'_>: serde::Serialize);
}
