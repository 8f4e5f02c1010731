// The load generator as a process of its own: `gomqctl bench`, without the rest of gomqctl.
import { benchCommand } from '../cli/bench/command.js';

await benchCommand().parseAsync();
