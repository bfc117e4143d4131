//! Pod address management without a coordinator.
//!
//! Pools of addresses are cut into blocks; a node owns whole blocks and hands out their addresses
//! from memory, so that starting a pod asks nobody. A block is claimed by creating an [`crd::IPAMBlock`]
//! named after its CIDR with its owner inside: the API server's create conflict is the lock.
//!
//! ```text
//!   crd  ──▶ pool, block (pure values) ──▶ allocator (pure: this node's blocks and who holds what)
//!                                            │ wants a block
//!                                            ▼
//!                                          claim ──▶ store (trait) ──▶ kube | memory
//! ```

pub mod allocator;
pub mod block;
pub mod choice;
pub mod cidr;
pub mod claim;
pub mod crd;
pub mod owner;
pub mod pool;
pub mod service;
pub mod store;

pub use allocator::Allocator;
pub use cidr::{BlockCidr, Cidr, Family};
pub use owner::{Owner, OwnerKey};
pub use pool::Pool;
