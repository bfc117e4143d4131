//! The small API server by its users: kube's client and runtime, in process and over TCP, and `kubectl`. With
//! `KUBEBUILDER_ASSETS` the same tests run against a real kube-apiserver; what asks for faults on demand then runs
//! against the small one as before.

mod apply;
mod crds;
mod faults;
mod kubectl;
mod model;
mod objects;
mod subject;
mod watches;
