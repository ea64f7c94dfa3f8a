/// The bytes of a long transfer: each offset has its own value, so that a lost, doubled or shifted byte is noticed.
#[derive(Debug, Clone, Default)]
pub struct Pattern {
    offset: u64,
}

impl Pattern {
    fn byte(offset: u64) -> u8 {
        (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Fills a buffer with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for b in buffer {
            *b = Self::byte(self.offset);
            self.offset += 1;
        }
    }

    /// Compares received bytes with the next ones.
    pub fn check(&mut self, received: &[u8]) -> Result<(), String> {
        for b in received {
            if *b != Self::byte(self.offset) {
                return Err(format!("the byte at offset {} is not what was sent", self.offset));
            }
            self.offset += 1;
        }
        Ok(())
    }
}
