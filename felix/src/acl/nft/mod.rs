//! nf_tables, spoken over netlink: what `nft` would write, without it.
//!
//! ```text
//!   Statement ──▶ Expr ──▶ attributes ──▶ Batch ──▶ Nft (one socket) ──▶ kernel
//!       │          ▲                                   │
//!       └─ text    └────────── parse ◀───────── dump ◀─┘
//! ```
//!
//! A [`Statement`] is a line's part as a person writes it (`ip saddr @web`, `counter`); an [`Expr`] is one of the
//! kernel's own instructions. Statements become expressions and text, expressions become attributes and are read
//! back from them: what is in the kernel is compared with what is wanted as values.

pub(super) mod attr;
mod batch;
mod expr;
mod object;
mod parse;
mod show;
mod socket;
mod statement;
mod text;
mod types;
mod uapi;

pub use batch::{Batch, Part};
pub use expr::{CmpOp, Expr, MetaKey, PayloadBase, Verdict};
pub use object::{BaseChain, Chain, ChainType, Element, Hook, Key, Rule, Set, Table};
pub use socket::{CommitError, Counter, DumpError, Event, Monitor, Nft, ReadChain, ReadTable};
pub use statement::{Field, Reject, Statement};
pub use text::Text;
pub use types::Type;
