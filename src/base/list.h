/*
 * list.h - an intrusive doubly linked list, for queues of things that wait.
 *
 *	struct list waiting = LIST_INIT(waiting);
 *	list_append(&waiting, &w->link);
 *	list_for_each_safe (pos, next, &waiting) { struct waiter *w = CONTAINER_OF(pos, …, link); }
 *
 * Adding and removing take constant time. A removed link points to itself, so list_remove() may be
 * repeated. The owner of the list does the locking.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include "base/util.h"

struct list {
	struct list *prev, *next;
};

#define LIST_INIT(name) {&(name), &(name)}
#define list_for_each_safe(pos, following, head)                                                   \
	for (struct list *pos = (head)->next, *following = pos->next; pos != (head);               \
		pos = following, following = pos->next)

static inline void list_init(struct list *head)
{
	head->prev = head->next = head;
}

static inline bool list_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_append(struct list *head, struct list *link)
{
	link->prev = head->prev;
	link->next = head;
	head->prev->next = link;
	head->prev = link;
}

static inline void list_remove(struct list *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	link->prev = link->next = link;
}

#endif
