//! OpenBao as a cluster of three, and every loss of one of its servers.

use serde_json::json;
use testkit::{
    files,
    openbao::{HungOpenBao, OpenBao, Partition, StoppedOpenBao, cluster_ca},
    relay::{Line, Relay},
    tenant::{Tenant, Timing},
    wait::wait_until,
};

use crate::{node::Node, provider::SOON};

/// A member of a cluster, and the relay through which nodes reach it.
pub(crate) struct Member {
    pub(crate) server: OpenBao,
    pub(crate) relay: Relay,
}

/// Three servers, and a node that knows all of them.
pub(crate) async fn cluster(timing: Timing) -> (Vec<Member>, Node) {
    let servers = OpenBao::start_cluster().await;
    let tenant = Tenant::new(&servers[0]).await;
    let ca = cluster_ca(&servers);
    files::replace(&tenant.ca_file(), ca.as_bytes(), 0o644);
    let mut members = Vec::new();
    for server in servers {
        let relay = Relay::to(&server.endpoint()).await;
        members.push(Member { server, relay });
    }
    let mut node = Node::of(tenant, timing);
    let address = |member: &Member| json!({"address": member.relay.address});
    let [first, further @ ..] = &members[..] else {
        unreachable!("a cluster has members")
    };
    node.config["openbao"]["address"] = json!(first.relay.address);
    node.config["openbao"]["failoverAddresses"] = further.iter().map(address).collect();
    node.config["openbao"]["timeout"] = json!("2s");
    node.config["logging"]["level"] = json!("info");
    (members, node)
}

/// The place of the active server, once there is one.
pub(crate) async fn active(members: &[Member]) -> usize {
    let mut active = None;
    wait_until(SOON, "a leader", async || {
        for (number, member) in members.iter().enumerate() {
            if member.server.is_active().await {
                active = Some(number);
            }
        }
        active.is_some()
    })
    .await;
    active.unwrap()
}

/// How a cluster, or a node, loses a server.
#[derive(Clone, Copy)]
pub(crate) enum Loss {
    Way,
    Partition,
    StepDown,
    Seal,
    Hang,
    Kill,
}

/// A server after it.
pub(crate) enum Lost {
    Running(Member),
    Unreachable(Member),
    Separated(Member, Partition),
    Sealed(Member),
    Hung(Member, HungOpenBao),
    Killed(StoppedOpenBao, Relay),
}

impl Loss {
    pub(crate) async fn befalls(self, mut member: Member, others: &[Member]) -> Lost {
        match self {
            Self::Partition => {
                let others = others.iter().map(|member| &member.server);
                let partition = member.server.separate(others);
                Lost::Separated(member, partition)
            }
            Self::Way => {
                member.relay.set(Line::Silent);
                Lost::Unreachable(member)
            }
            Self::StepDown => {
                member.server.step_down().await;
                Lost::Running(member)
            }
            Self::Seal => {
                member.server.seal().await;
                Lost::Sealed(member)
            }
            Self::Hang => {
                let hung = member.server.hang();
                Lost::Hung(member, hung)
            }
            Self::Kill => Lost::Killed(member.server.kill(), member.relay),
        }
    }
}

impl Lost {
    /// As a member of the cluster again.
    pub(crate) async fn returns(self) -> Member {
        let mut member = match self {
            Self::Running(member) => return member,
            Self::Unreachable(member) => {
                member.relay.set(Line::Open);
                return member;
            }
            Self::Separated(member, partition) => {
                drop(partition);
                return member;
            }
            Self::Hung(member, hung) => {
                drop(hung);
                return member;
            }
            Self::Sealed(member) => member,
            Self::Killed(stopped, relay) => Member {
                server: stopped.start_sealed().await,
                relay,
            },
        };
        member.server.unseal_member().await;
        member
    }
}
