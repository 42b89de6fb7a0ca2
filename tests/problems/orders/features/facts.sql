SELECT customer, segment FROM customers
