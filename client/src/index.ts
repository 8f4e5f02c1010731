export const clientPackageName = '@gomq/client';
