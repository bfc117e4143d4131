//! The BFD control packet: RFC 5880, section 4.1, and the rules of section 6.8.6 that need no session.

use std::fmt;

use nom::Parser;
use nom::combinator::map;
use nom::number::complete::be_u32;
use serde::{Deserialize, Serialize};

use crate::iana::BFD_VERSION;

/// Octets of a packet without an authentication section, which is all we send.
pub const LENGTH: usize = 24;

/// The flags, from the low bit up: RFC 5880, section 4.1.
mod flag {
    pub const MULTIPOINT: u8 = 1;
    pub const DEMAND: u8 = 1 << 1;
    pub const AUTHENTICATION: u8 = 1 << 2;
    pub const CONTROL_PLANE_INDEPENDENT: u8 = 1 << 3;
    pub const FINAL: u8 = 1 << 4;
    pub const POLL: u8 = 1 << 5;
}

/// A session's state: RFC 5880, section 6.8.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum State {
    /// Kept down by its operator.
    AdminDown = 0,
    /// Nothing is heard, or nothing that shows that we are heard.
    Down = 1,
    /// The neighbour is heard; it does not say yet that it hears us.
    Init = 2,
    /// Each hears the other.
    Up = 3,
}

impl State {
    /// From the two bits of the packet.
    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a session last changed its state: <https://www.iana.org/assignments/bfd-parameters>, "BFD
/// Diagnostic Codes"; five bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const TIME_EXPIRED: Self = Self(1);
    /// The neighbour said that it is down.
    pub const NEIGHBOUR_DOWN: Self = Self(3);
    /// The operator took it down.
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            9 => "mis-connectivity defect",
            other => return write!(f, "diagnostic {other}"),
        })
    }
}

/// A control packet without authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Why the sender's session last changed its state.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// P: an answer with F is wanted at once.
    pub poll: bool,
    /// F: this answers a packet with P.
    pub is_final: bool,
    /// C: the sender's BFD lives on when its control plane does not.
    pub control_plane_independent: bool,
    /// D: the sender wishes to hear nothing while the session is up.
    pub demand: bool,
    /// Packets in a row that may be lost before the session is down, and one more; never 0.
    pub multiplier: u8,
    /// The sender's number for the session; never 0.
    pub my_discriminator: u32,
    /// The receiver's number for the session; 0: not heard yet.
    pub your_discriminator: u32,
    /// The shortest interval the sender would like to send at, in microseconds, without jitter.
    pub desired_min_tx: u32,
    /// The shortest interval between packets the sender can take, in microseconds; 0: send none.
    pub required_min_rx: u32,
    /// The same for echo packets; 0: none are taken, which is what we say.
    pub required_min_echo_rx: u32,
}

/// Why a packet is discarded before any session sees it: RFC 5880, section 6.8.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// Not even the mandatory section.
    #[error("it has {0} octets; a control packet has at least {LENGTH}")]
    Short(usize),
    /// Another version than 1.
    #[error("its version is {0}; ours is {BFD_VERSION}")]
    Version(u8),
    /// The length field is below 24, or 26 with authentication.
    #[error("its length field says {0}, less than a control packet has")]
    LengthTooSmall(u8),
    /// The length field is larger than what arrived.
    #[error("its length field says {0}, more than arrived")]
    LengthTooLarge(u8),
    /// Detect Mult is 0.
    #[error("its detection multiplier is 0")]
    NoMultiplier,
    /// M is set.
    #[error("it is a multipoint packet")]
    Multipoint,
    /// My Discriminator is 0.
    #[error("its own discriminator is 0")]
    NoDiscriminator,
    /// Your Discriminator is 0 although the sender claims to have heard us.
    #[error("it is in state {0} without our discriminator")]
    NotForUs(State),
    /// A is set and no authentication is in use.
    #[error("it is authenticated, which is not configured")]
    Authenticated,
}

impl Packet {
    /// Reads a UDP payload. Octets after the packet's own length are ignored (RFC 5880, section 6.8.6).
    ///
    /// # Errors
    /// The packet is to be discarded.
    pub fn parse(payload: &[u8]) -> Result<Self, Reject> {
        let [first, flags, multiplier, length, rest @ ..] = payload else {
            return Err(Reject::Short(payload.len()));
        };
        if first >> 5 != BFD_VERSION {
            return Err(Reject::Version(first >> 5));
        }
        let authenticated = flags & flag::AUTHENTICATION != 0;
        if usize::from(*length) < LENGTH + if authenticated { 2 } else { 0 } {
            return Err(Reject::LengthTooSmall(*length));
        }
        if usize::from(*length) > payload.len() {
            return Err(Reject::LengthTooLarge(*length));
        }
        let words = (be_u32, be_u32, be_u32, be_u32, be_u32);
        let mut packet = map(words, |(mine, yours, desired, required, echo)| Self {
            diagnostic: Diagnostic(first & 0x1f),
            state: State::from_bits(flags >> 6),
            poll: flags & flag::POLL != 0,
            is_final: flags & flag::FINAL != 0,
            control_plane_independent: flags & flag::CONTROL_PLANE_INDEPENDENT != 0,
            demand: flags & flag::DEMAND != 0,
            multiplier: *multiplier,
            my_discriminator: mine,
            your_discriminator: yours,
            desired_min_tx: desired,
            required_min_rx: required,
            required_min_echo_rx: echo,
        });
        let (_, packet) = packet.parse(rest).map_err(|_: nom::Err<()>| Reject::Short(payload.len()))?;
        packet.judge(flags & flag::MULTIPOINT != 0, authenticated)
    }

    /// The rules in the order of RFC 5880, section 6.8.6.
    fn judge(self, multipoint: bool, authenticated: bool) -> Result<Self, Reject> {
        match self.state {
            _ if self.multiplier == 0 => Err(Reject::NoMultiplier),
            _ if multipoint => Err(Reject::Multipoint),
            _ if self.my_discriminator == 0 => Err(Reject::NoDiscriminator),
            State::Init | State::Up if self.your_discriminator == 0 => Err(Reject::NotForUs(self.state)),
            _ if authenticated => Err(Reject::Authenticated),
            _ => Ok(self),
        }
    }

    /// The octets to send.
    pub fn write(&self) -> [u8; LENGTH] {
        let bit = |flag, set| if set { flag } else { 0 };
        let flags = (self.state as u8) << 6
            | bit(flag::POLL, self.poll)
            | bit(flag::FINAL, self.is_final)
            | bit(flag::CONTROL_PLANE_INDEPENDENT, self.control_plane_independent)
            | bit(flag::DEMAND, self.demand);
        let mut out = [0; LENGTH];
        out[..4].copy_from_slice(&[
            BFD_VERSION << 5 | self.diagnostic.0 & 0x1f,
            flags,
            self.multiplier,
            LENGTH as u8,
        ]);
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx,
            self.required_min_rx,
            self.required_min_echo_rx,
        ];
        for (to, word) in out[4..].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use hex_literal::hex;
    use proptest::prelude::*;

    use super::*;

    /// Sent by BIRD 2.0.12 with a session up, captured with tcpdump.
    const GOOD: [u8; LENGTH] = hex!("20c00418 472f6c6b 0b1f8bf2 0000ea60 0000ea60 00000000");

    /// Likewise by FRR 8.4.4's bfdd, which would take echo packets every 50 ms.
    const FRR: [u8; LENGTH] = hex!("20c00418 1245cba1 63771985 0000ea60 0000ea60 0000c350");

    fn with(octet: usize, value: u8) -> Result<Packet, Reject> {
        let mut octets = GOOD;
        octets[octet] = value;
        Packet::parse(&octets)
    }

    #[test]
    fn a_good_packet_is_read_as_it_is_and_written_back() {
        let packet = Packet::parse(&GOOD).unwrap();
        assert_eq!((packet.state, packet.diagnostic, packet.multiplier), (State::Up, Diagnostic::NONE, 4));
        assert_eq!((packet.my_discriminator, packet.your_discriminator), (0x472f_6c6b, 0x0b1f_8bf2));
        assert_eq!((packet.desired_min_tx, packet.required_min_rx), (60_000, 60_000));
        assert_eq!((packet.poll, packet.is_final, packet.demand), (false, false, false));
        assert_eq!(packet.write(), GOOD);
        let packet = Packet::parse(&FRR).unwrap();
        assert_eq!(packet.required_min_echo_rx, 50_000);
        assert_eq!(packet.write(), FRR);
    }

    #[test]
    fn each_flag_is_its_own_bit() {
        let flags = |bits: u8| with(1, 0xc0 | bits).unwrap();
        assert!(flags(0x20).poll && flags(0x10).is_final && flags(0x08).control_plane_independent);
        assert!(flags(0x02).demand && !flags(0x02).poll);
    }

    #[test]
    fn octets_after_the_packet_are_ignored() {
        let mut longer = GOOD.to_vec();
        longer.extend([0xff; 40]);
        assert_eq!(Packet::parse(&longer), Packet::parse(&GOOD));
    }

    #[test]
    fn a_version_other_than_1_is_discarded() {
        assert_eq!(with(0, 0x00), Err(Reject::Version(0)));
        assert_eq!(with(0, 0x40), Err(Reject::Version(2)));
    }

    #[test]
    fn a_length_below_the_minimum_is_discarded() {
        assert_eq!(with(3, 23), Err(Reject::LengthTooSmall(23)));
        let mut authenticated = GOOD;
        (authenticated[1], authenticated[3]) = (0xc4, 25);
        assert_eq!(Packet::parse(&authenticated), Err(Reject::LengthTooSmall(25)));
    }

    #[test]
    fn a_length_beyond_the_payload_is_discarded() {
        assert_eq!(with(3, 25), Err(Reject::LengthTooLarge(25)));
        assert_eq!(Packet::parse(&GOOD[..20]), Err(Reject::LengthTooLarge(24)));
        assert_eq!(Packet::parse(&GOOD[..3]), Err(Reject::Short(3)));
        assert_eq!(Packet::parse(&[]), Err(Reject::Short(0)));
    }

    #[test]
    fn a_multiplier_of_0_is_discarded() {
        assert_eq!(with(2, 0), Err(Reject::NoMultiplier));
    }

    #[test]
    fn a_multipoint_packet_is_discarded() {
        assert_eq!(with(1, 0xc1), Err(Reject::Multipoint));
    }

    #[test]
    fn a_packet_without_the_senders_discriminator_is_discarded() {
        let mut octets = GOOD;
        octets[4..8].fill(0);
        assert_eq!(Packet::parse(&octets), Err(Reject::NoDiscriminator));
    }

    #[test]
    fn without_our_discriminator_only_down_and_admin_down_are_taken() {
        for (bits, verdict) in [
            (0x00, None),
            (0x40, None),
            (0x80, Some(Reject::NotForUs(State::Init))),
            (0xc0, Some(Reject::NotForUs(State::Up))),
        ] {
            let mut octets = GOOD;
            octets[1] = bits;
            octets[8..12].fill(0);
            assert_eq!(Packet::parse(&octets).err(), verdict);
        }
    }

    #[test]
    fn an_authenticated_packet_is_discarded() {
        let mut octets = GOOD.to_vec();
        octets.extend([1, 9, 1, b's', b'e', b'c', b'r', b'e', b't']);
        (octets[1], octets[3]) = (0xc4, 33);
        assert_eq!(Packet::parse(&octets), Err(Reject::Authenticated));
    }

    #[test]
    fn every_diagnostic_has_words() {
        assert!((0..=31).all(|code| !Diagnostic(code).to_string().is_empty()));
    }

    proptest! {
        #[test]
        fn no_octets_panic_and_what_is_read_is_written_back(octets in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(packet) = Packet::parse(&octets) {
                let mut same = octets[..LENGTH].to_vec();
                same[3] = LENGTH as u8;
                prop_assert_eq!(&packet.write()[..], &same[..]);
            }
        }

        #[test]
        fn almost_good_octets_do_not_panic(at in 0..LENGTH, value: u8, more in 0..40_usize) {
            let mut octets = GOOD.to_vec();
            octets[at] = value;
            octets.resize(LENGTH + more, 0);
            if let Ok(packet) = Packet::parse(&octets) {
                prop_assert_eq!(Packet::parse(&packet.write()), Ok(packet));
            }
        }
    }
}
