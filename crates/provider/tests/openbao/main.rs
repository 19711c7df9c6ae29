//! The built program against a real OpenBao: started as a service manager starts it, called
//! through its socket as kube-apiserver calls it, and looked at as a person looks at it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "functions that only tests call may fail like tests"
)]

mod answers;
mod attest;
mod backup;
mod batcher;
mod benchmark;
mod bulk;
mod clients;
mod clock;
mod commands;
mod compare_nodes;
mod corpus;
mod correlation;
mod crash;
mod discovery;
mod disk;
mod doctor;
mod drill;
mod extract;
mod faults;
mod forms;
mod hardening;
mod histories;
mod html;
mod init;
mod installed;
mod key;
mod legacy;
mod load;
mod login;
mod machine;
mod members;
mod metrics;
mod node;
mod nodes;
mod old_plugin;
mod outage;
mod pair;
mod prefix;
mod printed;
mod process;
mod provider;
mod proxy;
mod recover;
mod requests;
mod restart;
mod rollback;
mod rotation;
mod runbook;
mod saving;
mod scan_etcd;
mod scene;
mod secrets;
mod serving;
mod sets;
mod soak;
mod stalled_log;
mod traffic;
mod triage;
mod upgrade;
mod upkeep;
mod why;
mod wire;
