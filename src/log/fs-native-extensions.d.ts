// The part of fs-native-extensions that is used here: the package has no types of its own.
declare module 'fs-native-extensions' {
  /** Takes a lock on the whole of an open file, which ends with the file being closed; false where another has it. */
  export function tryLock(fd: number): boolean;
}
