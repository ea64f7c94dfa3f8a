//! What is known of a computed mark, bit by bit.

use super::rule::MarkWrite;

/// In each mask the bits of which this is certain. A bit that stands in none may be anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bits {
    zero: u32,
    one: u32,
    /// As in the packet's mark before.
    packet: u32,
    /// As in the connection's mark before.
    connection: u32,
}

impl Bits {
    pub const PACKET: Bits = Bits { zero: 0, one: 0, packet: u32::MAX, connection: 0 };
    pub const CONNECTION: Bits = Bits { zero: 0, one: 0, packet: 0, connection: u32::MAX };

    pub fn of(number: u32) -> Bits {
        Bits { zero: !number, one: number, packet: 0, connection: 0 }
    }

    pub fn and(self, b: Bits) -> Bits {
        let kept = |x: u32, y: u32| (x & b.one) | (y & self.one) | (x & y);
        Bits {
            zero: self.zero | b.zero,
            one: self.one & b.one,
            packet: kept(self.packet, b.packet),
            connection: kept(self.connection, b.connection),
        }
    }

    pub fn or(self, b: Bits) -> Bits {
        let kept = |x: u32, y: u32| (x & b.zero) | (y & self.zero) | (x & y);
        Bits {
            zero: self.zero & b.zero,
            one: self.one | b.one,
            packet: kept(self.packet, b.packet),
            connection: kept(self.connection, b.connection),
        }
    }

    pub fn xor(self, b: Bits) -> Bits {
        let kept = |x: u32, y: u32| (x & b.zero) | (y & self.zero);
        Bits {
            zero: (self.zero & b.zero) | (self.one & b.one),
            one: (self.one & b.zero) | (self.zero & b.one),
            packet: kept(self.packet, b.packet),
            connection: kept(self.connection, b.connection),
        }
    }

    /// Written to one of the marks.
    pub fn written(self, connection: bool) -> MarkWrite {
        let (own, other) = if connection { (self.connection, self.packet) } else { (self.packet, self.connection) };
        MarkWrite { connection, touched: !own, copied: other & !own, raised: !own & !self.zero }
    }
}

/// Hexadecimal or decimal; something else counts as all bits, to be on the safe side.
pub(in crate::cli) fn number(text: &str) -> u32 {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
    .unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mask_leaves_alone_is_not_touched() {
        let masked = Bits::PACKET.and(Bits::of(0xff00_ffff)).or(Bits::of(1)).written(false);
        assert_eq!((masked.touched, masked.copied), (0x00ff_0001, 0));
        assert_eq!(Bits::of(1).written(false).touched, u32::MAX);
        let restored = Bits::CONNECTION.written(false);
        assert_eq!((restored.touched, restored.copied), (u32::MAX, u32::MAX));
        let flipped = Bits::PACKET.xor(Bits::of(0x10)).written(false);
        assert_eq!(flipped.touched, 0x10);
        // A part of each: (meta mark & 0xffff0000) | (ct mark & 0xffff).
        let mixed = Bits::PACKET.and(Bits::of(0xffff_0000)).or(Bits::CONNECTION.and(Bits::of(0xffff)));
        let written = mixed.written(false);
        assert_eq!((written.touched, written.copied), (0xffff, 0xffff));
        assert_eq!(Bits::default().written(true).touched, u32::MAX);
    }
}
