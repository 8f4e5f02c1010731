// Loaded before a broker: at SIGUSR2 its wall clock jumps by as many milliseconds as the file $SHIFTED_CLOCK says, and it tells so. What is shifted is
// Date.now() and `new Date()` of the main thread, which is all that gomq asks for the time of day. Not shifted: monotonic time and timers, which a
// clock that is set leaves alone too; other threads, the times of files, and etcd.
import { readFileSync } from 'node:fs';

const RealDate = Date;
let shiftMs = 0;

class ShiftedDate extends RealDate {
  constructor(...parts) {
    if (parts.length === 0) super(RealDate.now() + shiftMs);
    else super(...parts);
  }

  static now() {
    return RealDate.now() + shiftMs;
  }
}
globalThis.Date = ShiftedDate;

process.on('SIGUSR2', () => {
  shiftMs = Number(readFileSync(process.env.SHIFTED_CLOCK, 'utf8'));
  const line = { level: 'info', message: `the clock is shifted by ${shiftMs} ms` };
  process.stderr.write(`${JSON.stringify(line)}\n`);
});
