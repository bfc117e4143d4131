//! Labs of network namespaces, with real routers and a Kubernetes API, for people and for tests.
//!
//! ```text
//!   *.clab.yml ─▶ topology ─▶ lab ─┬─ netns, link      namespaces and cables
//!                                  ├─ enter            a node as a machine of its own
//!                                  ├─ daemon           FRR, BIRD, GoBGP, OpenBGPD, ExaBGP, Manx
//!                                  ├─ kube, apiserver  Kubernetes
//!                                  ├─ kubelet          the pods of DaemonSets, by a real container runtime
//!                                  ├─ pod              pods, by the real CNI plugin
//!                                  ├─ traffic          packets that something is done under
//!                                  └─ graph            pictures of it all
//!   demo              the whole way, once, with every claim checked
//! ```

pub mod apiserver;
pub mod bgpd;
pub mod crowd;
pub mod daemon;
pub mod demo;
pub mod echo;
pub mod enter;
pub mod eventually;
pub mod graph;
pub mod kube;
pub mod kubelet;
pub mod lab;
pub mod link;
pub mod netns;
pub mod pod;
pub mod programs;
pub mod terminal;
pub mod topology;
pub mod traffic;

pub use eventually::{Late, eventually};
pub use lab::{Lab, LabError, Options, TemporaryLab};
pub use pod::PodInfo;
pub use topology::Topology;
