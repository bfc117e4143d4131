//! Bidirectional Forwarding Detection in asynchronous mode: RFC 5880, over one hop (RFC 5881) or several
//! (RFC 5883).
//!
//! Pure: packets and the time in, packets and changes of state out. The caller hands in what a session is
//! sent ([`Session::receive`]), calls [`Session::tick`] once [`Session::next_timeout`] has come, and after
//! either sends what [`Session::transmit`] gives until it gives nothing.
//!
//! ```text
//!                  ┌───────────────── Session ─────────────────┐
//!   receive ──────▶│  AdminDown   Down ⇄ Init ─▶ Up            │─▶ Change: from, to, why
//!   tick ─────────▶│  a Poll Sequence    last heard, next sent │─▶ transmit: packets
//!   set, disable ─▶└───────────────────────────────────────────┘─▶ next_timeout
//! ```
//!
//! Not implemented, and not needed for asynchronous mode: asking for demand mode (a neighbour that asks
//! for it is obeyed), the echo function, authentication. Packets that carry authentication are
//! discarded, as RFC 5880, section 6.8.6, wants where none is in use.

pub mod packet;
pub mod session;

#[cfg(test)]
mod pair;
#[cfg(test)]
mod tests;

pub use packet::{Diagnostic, Packet, Reject, State};
pub use session::{Change, Reason, Session, Settings};
