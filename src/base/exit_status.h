/*
 * exit_status.h - how imagehubfs ends when it does not start: one status for each cause, so that
 * scripts can tell them apart. doc/imagehubfs.1 has the table.
 */
#ifndef BASE_EXIT_STATUS_H
#define BASE_EXIT_STATUS_H

enum exit_status {
	STATUS_OK = 0,
	STATUS_FAILED = 1,	      /* anything without a number of its own */
	STATUS_USAGE = 2,	      /* options, arguments */
	STATUS_NO_FUSE = 3,	      /* no /dev/fuse, no fusermount3, or not for this user */
	STATUS_NO_MOUNTPOINT = 4,     /* missing, not a directory, or not this user's */
	STATUS_MOUNTPOINT_BUSY = 5,   /* mounted on already, or not empty */
	STATUS_STATE_LOCKED = 6,      /* another mount has this profile's state */
	STATUS_NO_KEY = 7,
	STATUS_KEY_EXPOSED = 8,	      /* others can read the key file */
	STATUS_OTHER_HUB = 9,	      /* the profile belongs to another hub */
	STATUS_STATE_UNUSABLE = 10,   /* the state or cache directory cannot be used */
	STATUS_NO_LOCAL_HUB = 11,     /* --local: imagehubd is missing or does not start */
};

#endif
